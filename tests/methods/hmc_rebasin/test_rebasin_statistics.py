"""Running statistics of a mean network and of its draws: one pass each, without augmentation."""

from __future__ import annotations

import torch
from compact_cases import posterior_of, summary_of
from small_problems import small_with_token, split
from torch import Tensor, nn

from benchmark import Split, copy_of, forward, seed_from, weights_of
from methods.hmc_rebasin.posterior import CompactPosterior
from methods.hmc_rebasin.statistics import statistics_of_draws, statistics_of_mean


def batch_statistics(net: nn.Module, weights: dict[str, Tensor], data: Split) -> tuple[Tensor, Tensor]:
    """Of the only norm's inputs over all examples at once."""
    seen = []
    hook = net.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    forward(net, weights, data.inputs)
    hook.remove()
    return seen[0].mean((0, 2, 3)), seen[0].var((0, 2, 3))


def test_statistics_of_the_mean_are_those_of_one_pass_of_the_mean_network():
    net, data = small_with_token(), split(96)
    before = copy_of(weights_of(net))
    posterior = posterior_of(net)
    found = statistics_of_mean(net, posterior, data, seed=1, batch_size=96)
    mean, var = batch_statistics(net, posterior.mean(), data)
    assert torch.allclose(found["norm.running_mean"], mean, atol=1e-5)
    assert torch.allclose(found["norm.running_var"], var, rtol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(net).items())
    assert not net.training


def test_augmentation_takes_no_part_in_the_statistics():
    net, data = small_with_token(), split(64)
    posterior = posterior_of(net)
    spoiling = Split(data.inputs, data.labels, lambda inputs, _: 100 * inputs)
    ours, theirs = (statistics_of_mean(net, posterior, one, seed=1, batch_size=16) for one in (spoiling, data))
    assert ours.keys() == {"norm.running_mean", "norm.running_var"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_statistics_of_draws_are_those_of_their_mixture():
    net, data = small_with_token(), split(96)
    posterior = posterior_of(net)
    found = statistics_of_draws(net, posterior, data, seed=3, batch_size=96)
    again = statistics_of_draws(net, posterior, data, seed=3, batch_size=96)
    assert all(torch.equal(found[name], again[name]) for name in found)
    plain = statistics_of_mean(net, posterior, data, seed=3, batch_size=96)
    assert (found["norm.running_var"] > plain["norm.running_var"]).all()
    seen = []
    hook = net.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].mean((0, 2, 3))))
    for weights in posterior.draws(8, torch.Generator().manual_seed(seed_from(3, "draws"))):
        forward(net, weights, data.inputs)
    hook.remove()
    means = torch.stack(seen)
    assert torch.allclose(found["norm.running_mean"], means.mean(0), atol=1e-5)
    single = statistics_of_draws(net, posterior, data, seed=3, batch_size=96, draws=1)
    assert torch.allclose(single["norm.running_mean"], means[0], atol=1e-5)
    assert (found["norm.running_var"] >= means.var(0, correction=0)).all()


def test_networks_without_running_statistics_have_none():
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    summary = summary_of(net)
    posterior = CompactPosterior.of(summary.mu, summary.sigma, {})
    assert statistics_of_mean(net, posterior, split(8), seed=0) == {}
    assert statistics_of_draws(net, posterior, split(8), seed=0) == {}

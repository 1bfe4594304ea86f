"""Shared Gaussians as a distribution over weights: its draws, its limits, and what tying changes."""

from __future__ import annotations

import math

import pytest
import torch
from shared_posterior_cases import (
    bytes_of,
    flat,
    network,
    per_weight,
    posterior_of,
    scope_of,
    seeded,
    share,
    state_of,
)
from small_problems import split

from benchmark import copy_of, weights_of
from benchmark.predict import predict
from methods.finetuning.flat import Flat
from methods.mean_field.posterior import GaussianPosterior
from methods.mean_field.prior import Prior
from methods.stochastic_weight_sharing.prior import Divergence, SharingPrior
from methods.stochastic_weight_sharing.state import SharedState

KINDS = [("independent", "1d"), ("independent", "2d"), ("tied", "1d"), ("tied", "2d")]
each_kind = pytest.mark.parametrize(("sampling", "codebook"), KINDS, ids=["-".join(kind) for kind in KINDS])


@each_kind
def test_few_draws_are_the_first_of_many_and_the_generator_decides(sampling, codebook):
    net = network()
    posterior = posterior_of(net, share(net, outliers=9, ellipses=14), codebook=codebook, sampling=sampling)
    few = [copy_of(weights) for weights in posterior.draws(3, seeded())]
    many = [copy_of(weights) for weights in posterior.draws(7, seeded())]
    for a, b in zip(few, many, strict=False):
        assert all(torch.equal(a[name], b[name]) for name in a)
    other = next(iter(posterior.draws(1, seeded(8))))
    assert not torch.equal(other["head.weight"], few[0]["head.weight"])
    assert not torch.equal(many[0]["head.weight"], many[1]["head.weight"])


@each_kind
def test_draws_take_one_number_from_the_generator_whatever_their_count(sampling, codebook):
    net = network()
    posterior = posterior_of(net, share(net, outliers=9), codebook=codebook, sampling=sampling)
    states = []
    for n in (1, 4):
        generator = seeded()
        list(posterior.draws(n, generator))
        states.append(generator.get_state())
    assert torch.equal(*states)


def test_a_draw_holds_every_weight_and_the_rest_as_it_is():
    net = network()
    posterior = posterior_of(net, share(net, outliers=9))
    first, own = next(iter(posterior.draws(1, seeded()))), weights_of(net)
    assert {name: w.shape for name, w in first.items()} == {name: w.shape for name, w in own.items()}
    assert all(torch.equal(first[name], own[name]) for name in own if name not in scope_of(net))
    assert posterior.support is None


def test_predicting_leaves_the_network_alone_and_does_not_depend_on_the_batch_size():
    net, data = network(), split(50)
    before = copy_of(weights_of(net))
    posterior = posterior_of(net, share(net, outliers=9))
    single, whole = (predict(net, posterior, data, 6, seeded(), batch_size=size) for size in (7, 128))
    assert torch.allclose(single.log_probs, whole.log_probs, atol=1e-5)  # kernels differ, draws do not
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(net).items())


@each_kind
def test_draws_have_the_reported_mean_and_deviation(sampling, codebook):
    net = network()
    shared = share(net, outliers=9, ellipses=14)
    posterior = posterior_of(net, shared, codebook=codebook, sampling=sampling)
    n = 1500
    samples = torch.stack([flat(weights, shared) for weights in posterior.draws(n, seeded())]).double()
    mean, sd = (flat(weights, shared).double() for weights in posterior.mean_and_sd())
    assert torch.equal(flat(posterior.mean(), shared).double(), mean)
    assert ((samples.mean(0) - mean) / sd).abs().max() < 4.5 / math.sqrt(n)
    square = (samples - mean).square()
    assert ((square.mean(0) - sd.square()) / square.std(0)).abs().max() < 5 / math.sqrt(n)  # 2d: heavier tails


def test_tied_members_are_equal_in_a_draw_and_independent_ones_are_not():
    net = network()
    shared = share(net)
    r = per_weight(net, scaled=True).r.float()
    spread = {}
    for sampling in ("tied", "independent"):
        x = flat(next(iter(posterior_of(net, shared, sampling=sampling).draws(1, seeded()))), shared) / r
        spread[sampling] = [float(x[shared.labels == k].std()) for k in range(shared.components)]
    assert max(spread["tied"]) < 1e-6
    _, log_b = posterior_of(net, shared).gaussians.codebook.marginals()
    for found, b in zip(spread["independent"], log_b.exp().tolist(), strict=True):
        assert found == pytest.approx(b, rel=0.3)  # 134 members


def test_tied_and_independent_marginals_are_equal_where_nothing_is_blended():
    net = network()
    shared = share(net, outliers=9)
    for codebook in ("1d", "2d"):
        both = [posterior_of(net, shared, codebook=codebook, sampling=s).mean_and_sd() for s in ("tied", "independent")]
        for tied, independent in zip(*both, strict=True):
            assert all(torch.equal(tied[name], independent[name]) for name in tied)


def mean_field(net, s0: float) -> tuple[GaussianPosterior, float]:
    """The Gaussians before sharing, and their divergence from N(0, s0^2)."""
    points, own = per_weight(net, scaled=True), scope_of(net)
    sizes = [w.numel() for w in own.values()]

    def named(values: torch.Tensor) -> dict[str, torch.Tensor]:
        pieces = values.float().split(sizes)
        return {name: piece.view(w.shape) for piece, (name, w) in zip(pieces, own.items(), strict=True)}

    mean, log_sd = named(points.x * points.r), named((points.s * points.r).log())
    rest = {name: w for name, w in weights_of(net).items() if name not in own}
    kl_over_n, _ = Prior(1 / (100 * s0**2), 100).kl_over_n(Flat.copy_of(mean), Flat.copy_of(log_sd))
    return GaussianPosterior(mean, log_sd, rest), 100 * kl_over_n


def test_a_cluster_per_weight_is_the_mean_field_posterior():
    net = network()
    size = sum(w.numel() for w in scope_of(net).values())
    shared = share(net, size)
    expected, kl = mean_field(net, 0.3)
    posterior = posterior_of(net, shared, storage="exact")
    pairs = zip(posterior.draws(3, seeded()), expected.draws(3, seeded()), strict=True)
    for ours, theirs in pairs:
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)
    prior = SharingPrior(dict.fromkeys(shared.shapes, 0.3), 100)
    sampler = state_of(net, shared).sampler("independent")
    assert float(Divergence(prior, sampler)()) == pytest.approx(kl, rel=1e-6)


def test_outliers_keep_the_draws_of_the_mean_field_posterior():
    net = network()
    shared = share(net, outliers=9)
    expected, _ = mean_field(net, 0.3)
    exact = next(iter(posterior_of(net, shared, storage="exact").draws(1, seeded())))
    theirs = next(iter(expected.draws(1, seeded())))
    index = shared.outliers.index
    assert torch.allclose(flat(exact, shared)[index], flat(theirs, shared)[index], atol=1e-6)


def test_one_cluster_has_the_moments_of_all_weights():
    net = network()
    points = per_weight(net, scaled=True)
    a, log_b = posterior_of(net, share(net, 1)).gaussians.codebook.marginals()
    assert float(a) == pytest.approx(float(points.x.mean()), abs=1e-7)
    variance = float((points.s**2 + points.x**2).mean() - points.x.mean() ** 2)
    assert float((2 * log_b).exp()) == pytest.approx(variance, rel=1e-6)


def test_a_cluster_without_spread_stays_finite():
    net = network()
    size = sum(w.numel() for w in scope_of(net).values())
    a, log_b = posterior_of(net, share(net, size), codebook="2d").gaussians.codebook.marginals()
    points = per_weight(net, scaled=True)
    order = points.x.argsort()
    assert torch.allclose(a.double(), points.x[order], atol=1e-6)
    assert torch.allclose(log_b.exp().double(), points.s[order], rtol=1e-4)


@pytest.mark.parametrize(("codebook", "per_cluster"), [("1d", 2), ("2d", 5)])
def test_trainable_scalars_are_those_of_codewords_and_outliers(codebook, per_cluster):
    net = network()
    assert state_of(net, share(net, 5, outliers=9), codebook).trainable_scalars == 2 * 9 + per_cluster * 5


@each_kind
def test_a_state_is_rebuilt_from_what_it_saved(sampling, codebook):
    net = network()
    state = state_of(net, share(net, outliers=9, ellipses=14), codebook)
    rebuilt = SharedState.of_saved(net, state.state_dict())
    ours, theirs = (bytes_of(s.posterior(sampling, "compact")) for s in (state, rebuilt))
    assert ours == theirs

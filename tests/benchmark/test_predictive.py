"""Named weights of an untouched network, and the Monte-Carlo predictive over draws of them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmark.contracts import Posterior, Weights
from benchmark.data import Split
from benchmark.errors import ConfigError
from benchmark.posteriors import PointMass, WeightSamples
from benchmark.predict import Pool, draw_log_probs, effective_draws, predict
from benchmark.weights import (
    buffer_count,
    check_weights,
    copy_of,
    evaluating,
    forward,
    load_into,
    parameter_count,
    weights_of,
)


class Tied(nn.Module):
    """Two layers that share one matrix, a norm with running statistics, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.two(self.drop(self.norm(self.one(inputs.flatten(1)))).relu())


def network(seed: int = 0) -> Tied:
    torch.manual_seed(seed)
    made = Tied()
    made.norm.running_mean.uniform_()
    return made


class Gaussian(Posterior):
    """Independent noise around the weights of a network."""

    def __init__(self, network: nn.Module, scale: float = 0.5) -> None:
        self.centre, self.scale = copy_of(weights_of(network)), scale

    def draws(self, n: int, generator: torch.Generator) -> Iterator[Weights]:
        for _ in range(n):
            yield {
                name: value
                if name.startswith("norm.running")
                else value + self.scale * torch.randn(value.shape, generator=generator)
                for name, value in self.centre.items()
            }


def split(n: int = 30) -> Split:
    torch.manual_seed(7)
    return Split(torch.randn(n, 1, 2, 2), torch.randint(4, (n,)))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- weights --------------------------------------------------------------------------------------------------------


def test_weights_are_parameters_and_floating_point_buffers_with_tied_ones_once():
    names = ["one.weight", "one.bias", "two.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"]
    net = network()
    assert list(weights_of(net)) == names
    assert parameter_count(net) == 16 + 4 + 4 + 4 + 4
    assert buffer_count(net) == 8  # num_batches_tracked is an integer


def test_weights_are_views_and_copies_are_copies():
    net = network()
    views, copies = weights_of(net), copy_of(weights_of(net))
    with torch.no_grad():
        net.one.bias.fill_(5)
    assert views["one.bias"].tolist() == [5] * 4
    assert copies["one.bias"].tolist() != [5] * 4
    assert not any(value.requires_grad for value in views.values())


def test_loading_copies_weights_and_running_statistics_in_place():
    source, target = network(1), network(2)
    load_into(target, weights_of(source))
    assert torch.equal(target.two.weight, source.one.weight)
    assert target.two.weight is target.one.weight
    assert torch.equal(target.norm.running_mean, source.norm.running_mean)


def test_a_weight_sample_without_running_statistics_is_refused():
    """They would be those of a fresh network, whose batch norm knows nothing of the data."""
    net = network()
    parameters = {name: value for name, value in weights_of(net).items() if "running" not in name}
    with pytest.raises(ConfigError, match=r"the first is 'norm\.running_mean'.*start from weights_of\(network\)"):
        check_weights(net, parameters)


def test_weights_that_do_not_fit_are_refused_with_the_first_that_is_wrong():
    net, good = network(), weights_of(network())
    with pytest.raises(ConfigError, match=r"weight 'one\.wieght' is not in the network\. Did you mean 'one\.weight'"):
        check_weights(net, {**good, "one.wieght": torch.zeros(4, 4)})
    with pytest.raises(ConfigError, match=r"weight 'one.bias' has shape \(3,\), the network has \(4,\)"):
        load_into(net, {**good, "one.bias": torch.zeros(3)})
    with pytest.raises(ConfigError, match=r"2 of .* have no weight, the first is 'two\.bias'"):
        check_weights(net, {name: good[name] for name in good if name not in ("two.bias", "norm.weight")})


def test_a_forward_pass_with_other_weights_is_that_of_the_network_that_has_them():
    one, other = network(1).eval(), network(2).eval()
    inputs = split().inputs
    before = copy_of(weights_of(one))
    assert torch.equal(forward(one, weights_of(other), inputs), other(inputs))
    assert all(torch.equal(value, before[name]) for name, value in weights_of(one).items())


def test_evaluating_restores_the_mode_of_every_module_even_after_an_error():
    net = network().train()
    net.norm.eval()  # frozen statistics
    with pytest.raises(ZeroDivisionError), evaluating(net):
        1 / any(module.training for module in net.modules())
    assert [module.training for module in (net, net.one, net.norm, net.drop)] == [True, True, False, True]


# -- pooling --------------------------------------------------------------------------------------------------------


def pooled(*draws: list[list[float]]) -> Pool:
    pool = Pool()
    for probs in draws:
        pool.add(torch.tensor(probs, dtype=torch.float64).log())
    return pool


def test_the_nll_of_an_ensemble_is_that_of_the_mean_probability():
    """Three numbers go by that name: .631432 averages the draws' NLL, .585427 their logits; .601986 is meant."""
    first, second = [[0.8, 0.2], [0.5, 0.5]], [[0.4, 0.6], [0.5, 0.5]]
    result = pooled(first, second).result()
    labels = torch.tensor([0, 1])
    assert -result.log_probs[torch.arange(2), labels].double().mean().item() == pytest.approx(0.601986, abs=5e-7)
    draws = torch.tensor([first, second], dtype=torch.float64).log()
    assert -draws[:, torch.arange(2), labels].mean().item() == pytest.approx(0.631432, abs=5e-7)
    logits = draws.mean(dim=0).log_softmax(dim=-1)
    assert -logits[torch.arange(2), labels].mean().item() == pytest.approx(0.585427, abs=5e-7)


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(2, 5), st.sampled_from([0.1, 3.0, 100.0]), st.integers(0, 5))
def test_streamed_pooling_equals_the_direct_computation(draws, classes, scale, seed):
    logits = scale * torch.randn(draws, 6, classes, dtype=torch.float64, generator=generator(seed))
    log_probs = logits.log_softmax(dim=-1)
    pool = Pool()
    for one in log_probs:
        pool.add(one)
    result = pool.result()
    direct = log_probs.exp().mean(dim=0)
    assert result.draws == draws
    assert (result.log_probs.dtype, result.log_probs.shape) == (torch.float32, (6, classes))
    torch.testing.assert_close(result.log_probs.double().exp(), direct, rtol=1e-5, atol=1e-12)  # stored as float32
    torch.testing.assert_close(
        result.log_probs, (log_probs.logsumexp(dim=0) - math.log(draws)).float(), rtol=2e-7, atol=2e-7
    )
    if draws == 1:
        assert result.expected_entropy is None
    else:
        entropy = torch.special.entr(log_probs.exp()).sum(dim=-1).mean(dim=0)
        torch.testing.assert_close(result.expected_entropy, entropy.float(), rtol=1e-6, atol=1e-7)


def test_impossible_classes_pool_without_nan():
    result = pooled([[1.0, 0.0, 0.0]], [[0.5, 0.5, 0.0]]).result()
    torch.testing.assert_close(result.log_probs.exp(), torch.tensor([[0.75, 0.25, 0.0]]))
    assert result.log_probs[0, 2] == -math.inf
    torch.testing.assert_close(result.expected_entropy, torch.tensor([math.log(2) / 2]))


def test_tiny_probabilities_survive_pooling():
    pool = Pool()
    for _ in range(4):
        pool.add(torch.tensor([[0.0, -2000.0]], dtype=torch.float64))
    torch.testing.assert_close(pool.result().log_probs, torch.tensor([[0.0, -2000.0]]))


def test_a_pool_does_not_change_what_it_is_given_and_needs_one_draw():
    draw = torch.tensor([[0.3, 0.7]], dtype=torch.float64).log()
    pool, before = Pool(), draw.clone()
    pool.add(draw)
    pool.add(draw)
    assert torch.equal(draw, before)
    with pytest.raises(ValueError, match="no draw was added"):
        Pool().result()


# -- predicting -----------------------------------------------------------------------------------------------------


def test_a_prediction_is_the_mean_of_the_draws_softmax_in_float64():
    net, data = network(), split()
    result = predict(net, Gaussian(net), data, 5, generator())
    net.eval()
    draws = [forward(net, weights, data.inputs).double().softmax(-1) for weights in Gaussian(net).draws(5, generator())]
    assert result.draws == 5
    torch.testing.assert_close(
        result.log_probs.double().exp(), torch.stack(draws).mean(dim=0).detach(), rtol=1e-5, atol=1e-9
    )


@pytest.mark.parametrize("size", [1, 7, 29, 30, 1000])
def test_the_batch_size_changes_no_draw(size):
    net, data = network(), split()
    source, reference = generator(), generator()
    found = predict(net, Gaussian(net), data, 3, source, batch_size=size)
    expected = predict(net, Gaussian(net), data, 3, reference)
    torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=1e-5, atol=1e-5)  # matmuls of other shapes
    assert torch.equal(source.get_state(), reference.get_state())


def test_predicting_leaves_the_network_as_it_was():
    net = network().train()
    net.norm.eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    predict(net, Gaussian(net), split(), 3, generator())
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_dropout_and_batch_statistics_are_off_while_predicting():
    net, data = network().train(), split()
    point = PointMass(weights_of(net))
    one, other = (predict(net, point, data, 1, generator(seed)).log_probs for seed in range(2))
    assert torch.equal(one, other)
    alone = predict(net, point, data.first(1), 1, generator()).log_probs
    torch.testing.assert_close(alone[0], one[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("asked", "made"), [(1, 1), (2, 2), (3, 3), (20, 3)])
def test_an_ensemble_predicts_with_no_more_draws_than_it_has_members(asked, made):
    nets = [network(seed) for seed in range(3)]
    ensemble = WeightSamples([weights_of(net) for net in nets])
    assert effective_draws(ensemble, asked) == made
    result = predict(nets[0], ensemble, split(), asked, generator())
    probs = torch.stack([net.eval()(split().inputs).double().softmax(-1) for net in nets[:made]]).mean(dim=0)
    assert result.draws == made
    assert (result.expected_entropy is None) == (made == 1)
    torch.testing.assert_close(result.log_probs.double().exp(), probs.detach(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("asked", [1, 5, 40])
def test_a_posterior_that_insists_on_its_draws_is_predicted_with_all_of_them(asked):
    class Chain(WeightSamples):
        prediction_draws = 3

    nets = [network(seed) for seed in range(3)]
    result = predict(nets[0], Chain([weights_of(net) for net in nets]), split(), asked, generator())
    probs = torch.stack([net.eval()(split().inputs).double().softmax(-1) for net in nets]).mean(dim=0)
    assert result.draws == 3
    torch.testing.assert_close(result.log_probs.double().exp(), probs.detach(), rtol=1e-5, atol=1e-9)


def test_a_posterior_may_have_its_own_link():
    class Tempered(PointMass):
        def log_probs(self, logits: Tensor) -> Tensor:
            assert logits.dtype == torch.float64
            return (logits / 2).log_softmax(dim=-1)

    net = network().eval()
    found = draw_log_probs(net, Tempered(weights_of(net)), weights_of(net), split(), 8)
    torch.testing.assert_close(found, (net(split().inputs).detach().double() / 2).log_softmax(-1), rtol=1e-5, atol=1e-6)


def test_draws_that_do_not_fit_the_network_are_refused_before_anything_is_predicted():
    net = network().train()
    with pytest.raises(ConfigError, match=r"^weight 'nope' is not in the network"):
        predict(net, PointMass({"one.weight": torch.zeros(4, 4), "nope": torch.zeros(1)}), split(), 1, generator())
    assert net.training

"""One temperature on validation data."""

import math

import pytest
import torch
from torch import nn

from benchmark import BitReader, BitWriter, ConfigError, Context, NeededRun, PointMass, Problem, Split, weights_of
from methods.map_temperature import MapTemperature
from methods.map_temperature.posterior import TemperedPoint
from methods.map_temperature.scale import fit_scale, scaled_nll

FOUR = [[0.9, 0.1]] * 4
FIVE = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.05, 0.05, 0.9], [0.6, 0.3, 0.1]]


def logs(rows):
    return torch.tensor(rows, dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("rows", "labels", "temperature", "before", "after"),
    [
        (FOUR, [0, 0, 0, 1], 2.0, 0.654667, 0.562335),
        (FIVE, [0, 1, 0, 2, 1], 0.696472, 0.618625, 0.590324),
    ],
)
def test_temperature_and_nll_of_worked_cases(rows, labels, temperature, before, after):
    z, y = logs(rows), torch.tensor(labels)
    scale = fit_scale(z, y)
    assert scale.temperature == pytest.approx(temperature, abs=1e-6)
    assert not scale.at_bound
    assert scaled_nll(z, y, 1.0) == pytest.approx(before, abs=1e-6)
    assert scaled_nll(z, y, scale.temperature) == pytest.approx(after, abs=1e-6)


def test_four_equal_rows_have_the_closed_form_two():
    # Margin ln 9 against the logit ln 3 of three in four: T = ln 9 / ln 3.
    assert fit_scale(logs(FOUR), torch.tensor([0, 0, 0, 1])).temperature == pytest.approx(2.0, abs=1e-12)


def test_the_temperature_carries_over_to_other_labels():
    assert scaled_nll(logs(FOUR), torch.tensor([0, 0, 1, 1]), 1.0) == pytest.approx(1.203973, abs=1e-6)
    assert scaled_nll(logs(FOUR), torch.tensor([0, 0, 1, 1]), 2.0) == pytest.approx(0.836988, abs=1e-6)


@pytest.mark.parametrize(("labels", "temperature"), [([0, 0, 0, 0], 0.05), ([1, 1, 1, 1], 20.0)])
def test_labels_that_are_always_right_or_always_wrong_end_at_a_bound(labels, temperature):
    scale = fit_scale(logs(FOUR), torch.tensor(labels))
    assert scale.at_bound
    assert scale.temperature == temperature


def test_no_temperature_on_a_grid_is_better():
    generator = torch.Generator().manual_seed(0)
    z = 5 * torch.randn(200, 7, generator=generator, dtype=torch.float64)
    y = (z / 3).softmax(dim=1).multinomial(1, generator=generator).squeeze(1)
    scale = fit_scale(z, y)
    grid = torch.linspace(math.log(0.05), math.log(20), 400).exp().tolist()
    assert scaled_nll(z, y, scale.temperature) <= min(scaled_nll(z, y, t) for t in grid)


def test_a_constant_added_to_a_row_changes_nothing_even_where_exponentials_overflow():
    z, y = logs(FIVE), torch.tensor([0, 1, 0, 2, 1])
    shifted = z + torch.tensor([[0.0], [1e3], [-1e3], [5e3], [1.0]], dtype=torch.float64)
    # abs: adding 5e3 rounds the logits at 1e-12
    assert fit_scale(shifted, y).temperature == pytest.approx(fit_scale(z, y).temperature, abs=1e-9)


def linear_problem(val=True):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        network[1].weight.mul_(20)  # over-confident: the labels below are drawn at a lower scale
    inputs = torch.randn(60, 1, 2, 2)
    labels = (network(inputs) / 8).softmax(dim=1).multinomial(1).squeeze(1).detach()
    split = Split(inputs, labels)
    return Problem(network, lambda seed: network, split, split if val else None, (1, 2, 2), 3, draws=20)


def fitted(problem, folder):
    base = PointMass(weights_of(problem.network))
    ctx = Context(folder, ("t", "n", "map_temperature", 0), needed=[NeededRun("map", {}, {}, base)])
    return MapTemperature().fit(problem, ctx, MapTemperature.Config())


def test_the_posterior_is_the_base_network_with_divided_logits(tmp_path):
    problem = linear_problem()
    posterior = fitted(problem, tmp_path)
    logits = problem.network(problem.val.inputs).detach().double()
    expected = fit_scale(logits, problem.val.labels)
    # 1e-5: the weights run through functional_call in float32
    assert posterior.temperature == pytest.approx(expected.temperature, rel=1e-5)
    assert posterior.temperature > 2
    assert torch.equal(posterior.log_probs(logits), (logits / posterior.temperature).log_softmax(-1))
    for name, tensor in weights_of(problem.network).items():
        assert torch.equal(posterior.mean()[name], tensor)
    facts = posterior.facts()
    assert facts["temperature"] == posterior.temperature
    assert facts["at_bound"] is False
    assert facts["val_nll"] < facts["val_nll_before"]
    assert posterior.support == 1


def test_the_network_keeps_its_mode(tmp_path):
    problem = linear_problem()
    problem.network.train()
    fitted(problem, tmp_path)
    assert all(module.training for module in problem.network.modules())


def test_bytes_hold_weights_and_temperature_exactly(tmp_path):
    problem = linear_problem()
    posterior = fitted(problem, tmp_path)
    out = BitWriter()
    posterior.encode(out)
    src = BitReader(out.finish())
    back = MapTemperature().posterior_type().decode(src, problem.network)
    src.finish()
    assert type(back) is TemperedPoint
    assert back.temperature == posterior.temperature
    assert all(torch.equal(back.weights[name], tensor) for name, tensor in posterior.weights.items())


def test_a_task_without_validation_data_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"no validation split.*\n.*hold out validation data"):
        fitted(linear_problem(val=False), tmp_path)


def test_it_starts_from_the_base_run_and_has_no_settings():
    method = MapTemperature()
    assert [need.method for need in method.needs(method.Config())] == ["map"]
    assert set(method.Config.model_fields) == {"preset"}

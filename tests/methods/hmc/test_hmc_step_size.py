"""The first step size, its adaptation, and masses."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hmc_targets import ORACLES

from benchmark import Diverged
from methods.hmc.mass import Welford
from methods.hmc.step_size import DualAveraging, initial_step_size


def test_dual_averaging_follows_the_oracle():
    given, expected = (ORACLES["dual_averaging_a"][part] for part in ("inputs", "expected"))
    averaging = DualAveraging(given["eps0"], given["target"])
    for accept, step, average in zip(given["accept"], expected["eps"], expected["eps_bar"], strict=True):
        averaging.update(accept)
        assert averaging.step_size == pytest.approx(step, rel=1e-6)
        assert averaging.average == pytest.approx(average, rel=1e-6)


def test_dual_averaging_goes_on_from_a_saved_state_to_the_last_bit():
    whole, first, second = (DualAveraging(0.3, 0.8) for _ in range(3))
    accepted = [0.1, 0.5, 0.93, 1.0, 0.7, 0.81]
    for accept in accepted:
        whole.update(accept)
    for accept in accepted[:3]:
        first.update(accept)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for accept in accepted[3:]:
        second.update(accept)
    assert second.state_dict() == whole.state_dict()


def test_dual_averaging_finds_the_step_of_the_wanted_acceptance():
    averaging = DualAveraging(0.001, 0.8)
    for _ in range(500):
        averaging.update(math.exp(-averaging.step_size))
    assert math.exp(-averaging.average) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("crossing", [7.3, 0.05, 1.1e-3, 0.9e-3, 3e-7])
def test_the_first_step_is_within_a_factor_of_two_below_the_crossing(crossing: float):
    found = initial_step_size(lambda step: math.exp(-math.log(2) * step / crossing))
    assert crossing / 2 <= found <= crossing * (1 + 1e-9)
    assert math.log2(found / 1e-3) == pytest.approx(round(math.log2(found / 1e-3)))


def test_a_start_without_finite_density_is_an_error_and_a_flat_one_is_none():
    with pytest.raises(Diverged, match="not finite"):
        initial_step_size(lambda step: 0.0)
    assert initial_step_size(lambda step: 1.0) > 1e6


def test_running_variances_are_those_of_all_states_together():
    states = 5 + torch.randn(7, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    welford = Welford(4, torch.device("cpu"))
    for batch in states:
        welford.add(batch)
    variance = states.view(21, 4).var(0)
    expected = (21 / 26 * variance + 5 / 26 * 1e-3) / 0.5**2
    torch.testing.assert_close(welford.inverse_mass(0.5), expected, rtol=1e-12, atol=0)
    again = Welford(4, torch.device("cpu"))
    again.load_state_dict(welford.state_dict())
    welford.add(states[0])
    torch.testing.assert_close(again.inverse_mass(0.5), expected, rtol=1e-12, atol=0)

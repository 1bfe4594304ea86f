"""Where sigma starts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fixing_oracles import oracle
from hypothesis import given
from hypothesis import strategies as st

from methods.probabilistic_weight_fixing.settings import SIGMA_FLOOR, FixingSettings
from methods.probabilistic_weight_fixing.sigma import initial_sigma, power_of_two_distance, quantile

DEFAULTS = FixingSettings()
Magnitude = st.floats(2.0**-60, 2.0**60, width=32)


@pytest.mark.parametrize("case", oracle("sigma_init"), ids=lambda case: case["id"])
def test_initial_sigma_equals_the_oracle(case):
    mu, expected = torch.tensor(case["inputs"]["mu"]), case["expected"]
    distance = power_of_two_distance(mu)
    torch.testing.assert_close(distance, torch.tensor(expected["r"]), rtol=0, atol=1e-6)
    assert max(quantile(distance[mu != 0], 0.75), 2.0**-40) == pytest.approx(expected["q75"], abs=1e-6)
    torch.testing.assert_close(initial_sigma(mu, DEFAULTS), torch.tensor(expected["sigma"]), rtol=3e-5, atol=2e-9)


@given(Magnitude)
def test_distance_is_the_product_of_the_relative_distances_to_both_neighbours(a: float):
    below = 2.0 ** np.floor(np.log2(a))
    above = 2 * below
    expected = (above - a) / a * (a - below) / a if below <= a < above else 0.0
    found = power_of_two_distance(torch.tensor([a, -a, 4 * a]))
    torch.testing.assert_close(found, torch.full((3,), expected), rtol=1e-4, atol=1e-7)


def test_distance_is_greatest_a_third_above_a_power_of_two():
    distance = power_of_two_distance(torch.linspace(1, 2, 3001)[:-1])
    assert int(distance.argmax()) == 1000
    assert float(distance.max()) == pytest.approx(1 / 8, rel=1e-6)
    assert float(distance[0]) == 0


@pytest.mark.parametrize(
    "mu", [torch.zeros(3, 2), torch.zeros(0), torch.tensor([1.0, -0.25])], ids=["zeros", "empty", "powers"]
)
def test_tensors_without_a_distance_start_at_the_floor(mu):
    sigma = initial_sigma(mu, DEFAULTS)
    assert sigma.shape == mu.shape
    assert bool((sigma == SIGMA_FLOOR).all())


def test_a_tensor_of_one_element_is_its_own_quantile():
    assert initial_sigma(torch.tensor([0.3]), DEFAULTS).tolist() == pytest.approx([0.0025])


def test_sigma_is_float32_whatever_the_network_is_in():
    mu = torch.tensor([[0.3, 0.7], [0.0, 1.5]], dtype=torch.bfloat16)
    torch.testing.assert_close(initial_sigma(mu, DEFAULTS), initial_sigma(mu.float(), DEFAULTS))


def test_constant_start_is_the_same_for_every_weight():
    sigma = initial_sigma(torch.tensor([0.0, 0.3, -1.0]), FixingSettings(sigma_init="constant"))
    assert sigma.tolist() == pytest.approx([1e-4] * 3)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40), st.sampled_from([0.1, 0.5, 0.75, 1.0]))
def test_quantile_is_linear_between_order_statistics(values: list[float], q: float):
    assert quantile(torch.tensor(values), q) == pytest.approx(float(np.quantile(values, q)), abs=1e-6)

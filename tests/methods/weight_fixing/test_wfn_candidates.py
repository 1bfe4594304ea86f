"""The values that weights may be fixed to."""

from __future__ import annotations

import numpy as np
import pytest
import wfn_brute_force as slow
from hypothesis import given
from hypothesis import strategies as st
from wfn_cases import oracle

from methods.weight_fixing.candidates import GAMMA, Candidates, chain, grid_bits

distances = st.floats(0.003, 3.0)
largest_weights = st.floats(2.0**-12, 40.0, width=32)
CASES = oracle("wfn_candidates")


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_candidates_are_those_of_the_oracle(case):
    inputs = case["inputs"]
    assert inputs["gamma0"] == GAMMA
    found = Candidates(inputs["d"], inputs["max_abs_free"]).values(inputs["order"], inputs["max_abs_free"])
    assert found.tolist() == case["expected"]["values"]
    assert len(found) == case["expected"]["count"]


@given(distance=distances, order=st.integers(0, 21), largest=largest_weights)
def test_candidates_are_those_of_the_definition(distance, order, largest):
    found = Candidates(distance, largest).values(order, largest)
    assert found.tolist() == slow.candidates(distance, order, largest)


@given(distance=distances, order=st.integers(0, 8), largest=largest_weights, share=st.floats(0.01, 1))
def test_candidates_of_smaller_weights_are_cut_from_those_of_larger_ones(distance, order, largest, share):
    found = Candidates(distance, largest).values(order, share * largest)
    assert found.tolist() == Candidates(distance, share * largest).values(order, share * largest).tolist()


@given(delta=st.floats(0.003, 0.5), times=st.integers(1, 10), order=st.integers(0, 21))
def test_candidates_are_multiples_of_the_grid_that_codes_count_in(delta, times, order):
    scaled = Candidates(times * delta, 4.0).values(order, 4.0) * 2.0 ** grid_bits(delta)
    assert 7 <= grid_bits(delta) <= 15
    assert np.array_equal(scaled, scaled.round())


@given(distance=st.floats(0.003, 0.5))
def test_high_orders_come_within_the_distance_of_every_link(distance):
    links = chain(distance, 2.0)
    sums = Candidates(distance, 2.0).values(21, 2.0)
    nearest = np.abs(links[:, None] - sums).min(1)
    assert (nearest < distance * links).all()


def test_only_zero_is_left_for_weights_of_the_smallest_value_at_most():
    assert Candidates(0.01, GAMMA).values(3, GAMMA).tolist() == [0.0]

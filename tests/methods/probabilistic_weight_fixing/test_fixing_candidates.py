"""The values that weights may be fixed to, and which of them a weight admits."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from fixing_oracles import oracle

from methods.fixed_weights.grid import code_dtype
from methods.probabilistic_weight_fixing.candidates import candidate_bound, candidate_codes, candidates_from
from methods.probabilistic_weight_fixing.histogram import interval


def sums_of_powers(omega: int, largest: float, b: int) -> list[int]:
    """By enumeration: sums of at most omega powers 2^-b..2^(e-1), with repetition, up to `largest`, and negatives."""
    powers = [1 << k for k in range(b + math.ceil(math.log2(largest)))] if largest > 0 else []
    sums = {sum(terms) for n in range(1, omega + 1) for terms in itertools.combinations_with_replacement(powers, n)}
    within = {0} | {total for total in sums if total <= largest * 2**b}
    return sorted(within | {-total for total in within})


@pytest.mark.parametrize("case", oracle("candidates"), ids=lambda case: case["id"])
def test_candidates_equal_the_oracle(case):
    inputs, expected = case["inputs"], case["expected"]
    codes = candidate_codes(inputs["omega"], inputs["max_abs_free"], inputs["b"])
    assert codes.tolist() == expected["grid"]
    assert len(codes) == expected["count"]


@pytest.mark.parametrize("largest", [0.0, 2.0**-9, 0.0078, 0.0079, 0.02, 0.3, 0.5, 0.51, 1.0, 1.3, 3.7, 6.0])
@pytest.mark.parametrize("omega", [1, 2, 3, 4])
def test_candidates_are_the_sums_of_powers_of_two(omega: int, largest: float):
    assert candidate_codes(omega, largest, 7).tolist() == sums_of_powers(omega, largest, 7)


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(0.3, [13, 39, 65, 75]), (1.0, [15, 59, 129, 199]), (1.3, [17, 71, 167, 263]), (6.0, [21, 111, 335, 699])],
    ids=["0.3", "1", "1.3", "6"],
)
def test_numbers_of_candidates_at_seven_bits(largest: float, sizes: list[int]):
    assert [len(candidate_codes(omega, largest, 7)) for omega in (1, 2, 3, 4)] == sizes


def test_candidates_of_a_grid_coarser_than_the_weights_are_zero_alone():
    assert candidate_codes(4, 2.0**-7, 7).tolist() == [0]
    assert candidate_codes(4, 0.0, 7).tolist() == [0]


def test_codes_are_16_bit_up_to_32767():
    assert code_dtype(32767.9, 0) == torch.int16
    assert code_dtype(32768.0, 0) == torch.int32
    assert code_dtype(256.0, 7) == torch.int32


def test_admitted_intervals_equal_the_oracle():
    (case,) = oracle("interval")
    inputs = case["inputs"]
    least, largest = interval(torch.tensor(inputs["mu"]), torch.tensor(inputs["sigma"]), inputs["delta"], inputs["b"])
    assert least.tolist() == case["expected"]["lo"]
    assert largest.tolist() == case["expected"]["hi"]


@pytest.mark.parametrize("omega", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("largest", [0.0, 0.01, 0.3, 1.0, 1.3, 3.7, 6.0, 8.0])
def test_first_candidates_at_or_above_any_code_are_those_of_the_list(largest: float, omega: int):
    every = candidate_codes(omega, largest, 7)
    assert candidate_bound(omega, largest, 7) >= len(every)
    for start in range(int(every[0]) - 3, int(every[-1]) + 4):
        first = every[every >= start][:1].tolist()
        found = candidates_from(np.array([start]), omega, largest, 7).tolist()
        assert found == sorted({0, *first}), start

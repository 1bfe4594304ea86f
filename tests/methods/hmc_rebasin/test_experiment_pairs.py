"""Which samples experiments look at."""

from __future__ import annotations

import pytest

from methods.hmc_rebasin.pairs import across_chains, spread, within_chains


@pytest.mark.parametrize(("count", "most"), [(1, 8), (7, 8), (8, 8), (9, 8), (600, 8), (600, 1), (3, 2)])
def test_a_spread_is_of_different_indices_from_the_first_to_the_last(count, most):
    found = spread(count, most)
    assert len(found) == len(set(found)) == min(count, most)
    assert found[0] == 0
    assert found[-1] == count - 1 or most == 1
    assert found == sorted(found)


def test_pairs_within_chains_have_the_lag_and_reach_over_all_chains():
    pairs = within_chains(4, 150, 20, 8)
    assert len(pairs) == 8
    assert all(a[0] == b[0] and b[1] - a[1] == 20 and 0 <= a[1] < b[1] < 150 for a, b in pairs)
    assert {a[0] for a, _ in pairs} == {0, 1, 2, 3}


def test_all_pairs_are_taken_where_there_are_few_and_none_where_the_chain_is_too_short():
    assert within_chains(2, 3, 2, 8) == [((0, 0), (0, 2)), ((1, 0), (1, 2))]
    assert within_chains(2, 3, 3, 8) == []
    with pytest.raises(ValueError, match="lag of 0"):
        within_chains(2, 3, 0, 8)


def test_pairs_across_chains_are_of_two_chains_at_equal_times():
    pairs = across_chains(4, 150, 8)
    assert len(pairs) == 8
    assert all(a[0] < b[0] and a[1] == b[1] for a, b in pairs)
    assert len({(a[0], b[0]) for a, b in pairs}) > 3
    assert across_chains(1, 150, 8) == []

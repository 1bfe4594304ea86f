"""Which samples are compared with each other: few of them, spread over the run."""

from __future__ import annotations

from itertools import combinations
from typing import TypeAlias

State: TypeAlias = "tuple[int, int]"
"""Chain, and number of the stored state within it."""


def spread(count: int, most: int) -> list[int]:
    """At most `most` of 0 .. count - 1, evenly spaced, the first and the last among them (of one: the first)."""
    if count <= most:
        return list(range(count))
    return [round(index * (count - 1) / max(1, most - 1)) for index in range(most)]


def within_chains(chains: int, per_chain: int, lag: int, most: int) -> list[tuple[State, State]]:
    """Pairs of states of one chain, `lag` stored states apart; empty where no chain is that long.

    Raises:
        ValueError: a lag below 1.
    """
    if lag < 1:
        raise ValueError(f"a lag of {lag} states; legal: from 1")
    starts = max(0, per_chain - lag)
    places = (divmod(index, starts) for index in spread(chains * starts, most))
    return [((chain, first), (chain, first + lag)) for chain, first in places]


def across_chains(chains: int, per_chain: int, most: int) -> list[tuple[State, State]]:
    """Pairs of states of two chains at equal times; empty for one chain."""
    both = list(combinations(range(chains), 2))
    places = (divmod(index, len(both)) for index in spread(per_chain * len(both), most))
    return [((both[pair][0], state), (both[pair][1], state)) for state, pair in places]

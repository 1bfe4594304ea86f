"""One iteration of clustering: values are picked, and weights fixed to them, until as many as asked for are fixed.

Subia-Waud, Dasmahapatra, "Weight Fixing Networks" (ECCV 2022, arXiv 2210.13554). Sorted once, the free weights are
never compared with all candidates: counts are differences of ranks, and members are looked for around a value only.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from methods.fixed_weights.fixing import Fixing
from methods.fixed_weights.picks import Pick, RoundRecord
from methods.weight_fixing.candidates import Candidates
from methods.weight_fixing.free import SortedWeights
from methods.weight_fixing.members import take_members

LAST_ORDER = 20
"""From there on it is the reach that grows."""


def fixed_quota(fraction: float, weights: int) -> int:
    """floor(fraction x weights), of which rounding errors take none."""
    return math.floor(round(fraction * weights, 6))


def fix_iteration(weights: Fixing, target: int, distance: float, *, pick_of: Tensor | None = None) -> RoundRecord:
    """Fix free weights, in place, until `target` weights are fixed in all; nothing to do where as many are already.

    Again and again the candidate is picked that is nearest to most free weights, and takes those of `take_members`. A
    value without any is followed by a longer sum of powers (the order), after order 20 by twice the reach, which a
    pick with members sets back. Runs on the host. Weights must be finite; b is at least `grid_bits(distance)`, and
    the codes are int32.

    Args:
        target: at most N; see `fixed_quota`.
        distance: relative, between candidates and of members.
        pick_of: (N,) int32; receives the position in `picks` for weights fixed here, -1 for others.

    Returns:
        The picks: omega is the number of signed powers, order + 1, and delta the reach. phases: changes of these two,
        and one.
    """
    started = time.perf_counter()
    if pick_of is not None:
        pick_of.fill_(-1)
    index = (~weights.fixed).nonzero().squeeze(1)
    left = target - (len(weights) - len(index))
    picks: list[Pick] = []
    phases, order, reach = 1, 0, distance
    free = SortedWeights(weights.mu.index_select(0, index).cpu().numpy(), index.cpu().numpy())
    candidates = Candidates(distance, free.largest() if left > 0 else 0.0)
    while left > 0:
        values = candidates.values(order, free.largest())
        value = float(values[free.votes(values).argmax()])
        members = take_members(free, value, reach, left)
        if len(members):
            pick = Pick(round(value * 2**weights.b), len(members), order + 1, reach)
            _fix(weights, torch.from_numpy(members), pick, pick_of, len(picks))
            picks.append(pick)
            left -= len(members)
            reach = distance
        else:
            phases += 1
            order = min(order + 1, LAST_ORDER + 1)
            reach = reach * 2 if order > LAST_ORDER else reach
    return RoundRecord(tuple(picks), phases, time.perf_counter() - started)


def _fix(weights: Fixing, members: Tensor, pick: Pick, pick_of: Tensor | None, number: int) -> None:
    """members: (m,) int64, flat indices."""
    own, value = members.to(weights.mu.device), math.ldexp(pick.code, -weights.b)
    weights.mu.index_fill_(0, own, value)
    weights.code.index_fill_(0, own, pick.code)
    weights.fixed.index_fill_(0, own, True)
    if pick_of is not None:
        pick_of.index_fill_(0, own, number)

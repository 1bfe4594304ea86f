"""One round of clustering: values are picked, and weights fixed to them, until as many as asked for are fixed.

Subia-Waud, Dasmahapatra, "Probabilistic Weight Fixing: Large-scale training of neural network weight uncertainties for
quantization" (NeurIPS 2023, arXiv 2309.13575). Instead of distances of all weights to all candidates, a histogram of
which candidates weights admit: a phase costs a few passes over the free weights, however many values it picks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark import ConfigError
from methods.fixed_weights.fixing import Fixing
from methods.fixed_weights.grid import MOST_CODES, SMALL_TABLE, code_dtype, largest_magnitude
from methods.fixed_weights.picks import Pick, RoundRecord
from methods.probabilistic_weight_fixing.candidates import candidate_bound, candidate_codes, candidates_from
from methods.probabilistic_weight_fixing.checks import check_free
from methods.probabilistic_weight_fixing.free import DISTANCE_FLOOR, Free, positions
from methods.probabilistic_weight_fixing.greedy import greedy
from methods.probabilistic_weight_fixing.histogram import interval, kinds_of
from methods.probabilistic_weight_fixing.joins import fix
from methods.probabilistic_weight_fixing.quota import keep_nearest
from methods.probabilistic_weight_fixing.settings import FixingSettings
from methods.probabilistic_weight_fixing.turns import choose_by_turns, nearest_candidate


def fixed_target(fraction: float, weights: int) -> int:
    """ceil(fraction x weights), of which rounding errors add none."""
    return math.ceil(round(fraction * weights, 6))


def schedule(delta: float, settings: FixingSettings) -> Iterator[tuple[int, float]]:
    """(omega, delta) of the phases of a round: they grow in turns, omega first and up to omega_max."""
    omega = 1
    for phase in range(settings.max_phases):
        yield omega, delta
        if omega < settings.omega_max and phase % 2 == 0:
            omega += 1
        else:
            delta *= settings.inc


def fix_round(
    weights: Fixing,
    target: int,
    delta: float,
    settings: FixingSettings,
    *,
    pick_of: Tensor | None = None,
    sizes: Mapping[str, int] | None = None,
) -> RoundRecord:
    """Fix free weights, in place, until `target` weights are fixed in all; nothing to do where as many are already.

    Each value picked is the candidate that most free weights count for. Weights that are fixed stay as they are; to
    cluster them anew, clear `fixed` before. The grid is weights.b; code becomes int32 if values need it.

    Args:
        target: at most N; see `fixed_target`.
        delta: reach of the first phase, in sigmas, > 0.
        pick_of: (N,) int32; receives the position in `picks` for weights fixed in this round, -1 for others.
        sizes: elements of each tensor, in flat order, by which errors name the tensor at fault.

    Raises:
        Diverged: mu or sigma of a free weight is not finite.
        ConfigError: a weight is too large for the grid; max_phases are over. The weights fixed by then stay fixed.
        ValueError: target exceeds N.
    """
    started = time.perf_counter()
    if target > len(weights):
        raise ValueError(
            f"target {target:,} exceeds the number of weights, {len(weights):,}; legal: 0..{len(weights):,}"
        )
    if pick_of is not None:
        pick_of.fill_(-1)
    free = Free.of(weights)
    check_free(free, weights.b, sizes)
    left = target - (len(weights) - len(free))
    picks: list[Pick] = []
    phases = 0
    for omega, reach in schedule(delta, settings):
        if left <= 0:
            break
        phases += 1
        found, label = _phase(weights, free, omega, reach, left, settings)
        if found and pick_of is not None:
            _note(pick_of, free, label, len(picks))
        picks += found
        left -= sum(pick.count for pick in found)
        if found and left > 0:
            free.drop(label)
    if left > 0:
        raise ConfigError(_unfinished(weights.b, free, left, settings, omega, reach))
    return RoundRecord(tuple(picks), phases, time.perf_counter() - started)


def _phase(
    weights: Fixing, free: Free, omega: int, delta: float, left: int, settings: FixingSettings
) -> tuple[list[Pick], Tensor]:
    """The picks of one phase, and (n,) the position of each free weight's, or -1. Fixes the members, `left` at most."""
    largest = largest_magnitude(free.mu)
    codes = _candidates(free, omega, largest, delta, weights.b, settings)
    chosen, label = _choose(free, codes, delta, weights.b, left, settings)
    if not chosen:
        return [], label
    excess = sum(members for _, members in chosen) - left
    if excess > 0:
        last, members = chosen[-1]
        chosen[-1] = (last, members - excess)
        keep_nearest(free, label, len(chosen) - 1, int(codes[last]) * 2.0**-weights.b, members - excess)
    picked = codes[[candidate for candidate, _ in chosen]]
    if weights.code.dtype == torch.int16:
        weights.code = weights.code.to(code_dtype(largest, weights.b))
    fix(weights, free, label, picked, settings.sigma_join)
    return [Pick(int(codes[candidate]), members, omega, delta) for candidate, members in chosen], label


def _candidates(
    free: Free, omega: int, largest: float, delta: float, b: int, settings: FixingSettings
) -> NDArray[np.int64]:
    """All candidates, rising, or where those outnumber the free weights the ones that can be picked."""
    if _by_turns(settings) or candidate_bound(omega, largest, b) <= max(SMALL_TABLE, len(free)):
        return candidate_codes(omega, largest, b)
    bound = 2.0 * MOST_CODES
    parts = (interval(free.mu[block], free.sigma[block], delta, b)[0] for block in free.blocks())
    starts = torch.cat([part.clamp_(-bound, bound).unique() for part in parts]).unique()
    return candidates_from(starts.long().cpu().numpy(), omega, largest, b)


def _by_turns(settings: FixingSettings) -> bool:
    """Whether every pick looks at the weights again."""
    return settings.count != "coverage" or settings.membership != "max"


def _choose(
    free: Free, codes: NDArray[np.int64], delta: float, b: int, left: int, settings: FixingSettings
) -> tuple[list[tuple[int, int]], Tensor]:
    """(candidate, members) of every pick, and (n,) int16 or int32 the position of each free weight's pick, or -1."""
    if _by_turns(settings):
        return choose_by_turns(free, codes, delta, b, left, settings)
    kinds = kinds_of(free, codes, delta, b, settings.zero_fix)
    chosen, pick_of = greedy(kinds, len(codes), int(np.searchsorted(codes, 0)), left)
    return chosen, kinds.expand(pick_of.astype(np.int16 if len(chosen) <= np.iinfo(np.int16).max else np.int32))


def _note(pick_of: Tensor, free: Free, label: Tensor, first: int) -> None:
    """Write label + first to the positions of the weights with label >= 0."""
    for block in free.blocks():
        own = positions(label[block] >= 0)
        index = free.index[block].index_select(0, own).long()
        pick_of.index_copy_(0, index, label[block].index_select(0, own).to(torch.int32).add_(first))


def _unfinished(b: int, free: Free, left: int, settings: FixingSettings, omega: int, delta: float) -> str:
    codes = candidate_codes(omega, largest_magnitude(free.mu), b)
    nearest = torch.from_numpy(codes).to(free.mu)[nearest_candidate(free.mu, codes, b)].mul_(2.0**-b)
    distance = (free.mu - nearest).abs_().div_(free.sigma.clamp(min=DISTANCE_FLOOR))
    return (
        f"{left:,} weights are left to fix after max_phases ({settings.max_phases}) phases, out of {len(free):,} free "
        f"ones: delta has come to {delta:g}, and the farthest is {float(distance.max()):g} sigmas from its nearest "
        f"value. Set inc, the factor on delta, to more than {settings.inc:g} (legal: above 1, up to 1024), or "
        f"max_phases to more than {settings.max_phases} (legal: 1 to 1024)."
    )

"""Fixing weights to the values that were picked for them: value, code, and the sigma that members get."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from methods.fixed_weights.fixing import Fixing
from methods.probabilistic_weight_fixing.free import DISTANCE_FLOOR, Free, positions

Join = Literal["std_mu", "keep", "div10", "div2"]
DIVISOR = {"div10": 10.0, "div2": 2.0}


def fix(weights: Fixing, free: Free, pick_of: Tensor, codes: NDArray[np.int64], join: Join) -> None:
    """Fix the free weights with pick_of >= 0 to the values of their picks, in place.

    pick_of: (n,) integers, a position in codes (P,) or -1. sigma after Subia-Waud and Dasmahapatra: std_mu is the
    population standard deviation of the members' mu before fixing; div10, div2: max(sigma, 2^-20) / 10, / 2.
    """
    device = weights.mu.device
    code = torch.from_numpy(codes).to(device, weights.code.dtype)
    value = torch.from_numpy(codes * 2.0**-weights.b).to(device, torch.float32)
    spread = _deviation(free, pick_of, value) if join == "std_mu" else None
    for block in free.blocks():
        own, pick = _members(pick_of, block)
        index = free.index.index_select(0, own).long()
        weights.mu.index_copy_(0, index, value.index_select(0, pick))
        weights.code.index_copy_(0, index, code.index_select(0, pick))
        weights.fixed.index_fill_(0, index, True)
        if spread is not None:
            weights.deviations.index_copy_(0, index, spread.index_select(0, pick))
        elif join != "keep":
            sigma = free.sigma.index_select(0, own).clamp_(min=DISTANCE_FLOOR)
            weights.deviations.index_copy_(0, index, sigma.div_(DIVISOR[join]))


def _deviation(free: Free, pick_of: Tensor, value: Tensor) -> Tensor:
    """(P,) float32, of the members' mu; 0 for one member. From sums about the value, in float64: nothing cancels.
    Summed on the CPU: on a GPU the last bits would depend on the order of its threads."""
    sums = torch.zeros(3, len(value), dtype=torch.float64)
    for block in free.blocks():
        own, pick = _members(pick_of, block)
        x = free.mu.index_select(0, own).sub_(value.index_select(0, pick)).double().cpu()
        pick = pick.cpu()
        sums[0] += torch.bincount(pick, minlength=len(value))
        sums[1] += torch.bincount(pick, x, minlength=len(value))
        sums[2] += torch.bincount(pick, x.square_(), minlength=len(value))
    mean, square = sums[1] / sums[0], sums[2] / sums[0]
    return (square - mean.square_()).clamp_(min=0).sqrt_().float().to(value.device)


def _members(pick_of: Tensor, block: slice) -> tuple[Tensor, Tensor]:
    """Positions (m,) int64 of a block's members among the free weights, and their picks (m,) int32."""
    picks = pick_of[block]
    own = positions(picks >= 0)
    return own + block.start, picks.index_select(0, own).to(torch.int32)

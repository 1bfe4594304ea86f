"""Weights that a posterior can do without, set to 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from benchmark import ConfigError
from methods.hmc_rebasin.choices import Rule, Scope
from methods.hmc_rebasin.summary import Summary
from methods.symmetry.frames import require_one_frame

Percent = int | float | str | Fraction

CURVE = (100, 90, 80, 70, 60, 50, 40, 30, 20, 10, 5, 1)
"""Percentages of weights kept, along which pruning is shown (arXiv 2401.00611)."""


@dataclass(frozen=True)
class Pruning:
    """Which entries of a labelling are kept.

    masks: name -> bool, True where kept. kept, total: entries kept, of those that were ranked. frame_id: the labelling
    of the scores, which the pruned weights must share.
    """

    masks: Mapping[str, Tensor]
    kept: int
    total: int
    frame_id: str

    def applied(self, weights: Mapping[str, Tensor], frame_id: str) -> dict[str, Tensor]:
        """The weights with 0 where they are not kept: new tensors; those without a mask as they are.

        Raises:
            FrameError: the weights are labelled otherwise.
        """
        require_one_frame(weights=frame_id, scores=self.frame_id)
        return {
            name: tensor.where(self.masks[name].to(tensor.device), 0) if name in self.masks else tensor
            for name, tensor in weights.items()
        }


@torch.no_grad()
def prune(summary: Summary, percent: Percent, rule: Rule = "snr", scope: Scope = "all") -> Pruning:
    """Keep the floor(percent P / 100) entries of the highest score; of equal ones the first in flat order.

    percent: in (0, 100]; decimals are taken as they are written, without binary rounding. rule: snr, |mu|/sigma; sigma,
    small first (arXiv 2401.00611); abs_mu, |mu|. scope: what is ranked, all parameters or only weights of layers
    (named `weight`, with two axes or more); the rest is kept and not counted in P. Entries that the summary leaves out
    are never kept and never counted.

    Raises:
        ConfigError: a percentage or a rule that does not exist.
    """
    ranked = [name for name, mu in summary.mu.items() if scope == "all" or is_weight(name, mu)]
    counted = {name: _counted(summary, name) for name in summary.mu}
    masks = {name: mask.clone() for name, mask in counted.items()}
    scores = [_score(summary.mu[name], summary.sigma[name], rule)[counted[name]] for name in ranked]
    score = torch.cat(scores) if scores else torch.zeros(0)
    kept = kept_entries(percent, len(score))
    chosen = _highest(score, kept)
    for name, mask in zip(ranked, chosen.split([len(one) for one in scores]), strict=True):
        masks[name][counted[name]] = mask
    return Pruning(masks, kept, len(score), summary.frame_id)


def kept_entries(percent: Percent, total: int) -> int:
    """floor(percent total / 100) in exact arithmetic; may be 0.

    Raises:
        ConfigError: not in (0, 100].
    """
    try:
        share = Fraction(str(percent))
    except ValueError:
        share = Fraction(0)
    if not 0 < share <= 100:
        raise ConfigError(f"percent of weights to keep is {percent}; legal: above 0, up to 100")
    return math.floor(share * total / 100)


def is_weight(name: str, tensor: Tensor) -> bool:
    """Whether a parameter is the weight of a layer: no bias, no affine of a norm, no token."""
    return name.rpartition(".")[2] == "weight" and tensor.ndim >= 2


def _score(mu: Tensor, sigma: Tensor, rule: str) -> Tensor:
    if rule == "snr":
        return mu.abs() / sigma
    if rule == "sigma":
        return -sigma
    if rule == "abs_mu":
        return mu.abs()
    raise ConfigError(f"rule of pruning is '{rule}'; legal: snr, sigma, abs_mu")


def _counted(summary: Summary, name: str) -> Tensor:
    mask = summary.left_out.get(name)
    mu = summary.mu[name]
    return torch.ones_like(mu, dtype=torch.bool) if mask is None else ~mask.to(mu.device)


def _highest(score: Tensor, count: int) -> Tensor:
    """Mask (P,) of the `count` highest, in time O(P): a selection, then the first of those that equal the last one."""
    if count in (0, len(score)):
        return torch.full_like(score, count > 0, dtype=torch.bool)
    last = score.kthvalue(len(score) - count + 1).values
    chosen = score > last
    ties = (score == last).nonzero().flatten()
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen

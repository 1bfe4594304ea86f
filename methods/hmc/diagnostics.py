"""Have the chains converged? Rank-normalised split R-hat and effective sample sizes (Vehtari et al. 2021, arXiv
1903.08008), of the log posterior and of what the network says about fixed inputs.

Weights are never the criterion: in label-switched chains they disagree for no reason that a prediction would notice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmark import Fact, Problem, evaluating

Array = NDArray[np.floating[Any]]
INPUTS = 64
MOST_COLUMNS = 6400
"""Quantities of one kind that are diagnosed; of more, evenly spaced ones. A hundred classes of 64 inputs."""
FEWEST_DRAWS = 4
"""Per chain: below, R-hat and ESS are undefined."""
LARGEST_RHAT, LARGEST_STRICT_RHAT, FEWEST_EFFECTIVE = 1.05, 1.01, 100
TAILS = (0.05, 0.95)
CHUNK = 1 << 20
"""Weights of all states that are run through the network at a time."""


def rank_rhat(draws: Array) -> Array:
    """R-hat of every column: draws (C, D, ...) -> (...), the larger of the bulk's and the folded draws'; NaN for
    constant columns, infinite where every chain stands still at a place of its own. One chain counts as two halves."""
    from arviz_stats.base.array import array_stats

    return _by_column(draws, lambda x: array_stats.rhat(x, chain_axis=0, draw_axis=1, method="rank"))


def ess_bulk(draws: Array) -> Array:
    """Effective sample size for means and medians, of all chains together; (C, D, ...) -> (...), NaN as `rank_rhat`."""
    from arviz_stats.base.array import array_stats

    return _by_column(draws, lambda x: array_stats.ess(x, chain_axis=0, draw_axis=1, method="bulk"))


def ess_tail(draws: Array) -> Array:
    """The same for the 5 % and the 95 % quantile, the lower of the two."""
    from arviz_stats.base.array import array_stats

    return _by_column(draws, lambda x: array_stats.ess(x, chain_axis=0, draw_axis=1, method="tail", prob=TAILS))


def _by_column(draws: Array, statistic: Callable[[Array], Any]) -> Array:
    """`statistic` of the columns that vary, NaN for those that do not."""
    if draws.ndim < 2:
        raise ValueError(f"draws must be an array (chains, draws, ...); got {draws.shape}")
    if draws.shape[1] < 2 * FEWEST_DRAWS and (len(draws) == 1 or draws.shape[1] < FEWEST_DRAWS):
        return np.full(draws.shape[2:], np.nan)
    chains = halves(draws).astype(np.float64)
    columns = chains.reshape(*chains.shape[:2], -1)
    found = np.full(columns.shape[2], np.nan)
    varying = ~constant(columns)
    if varying.any() and columns.shape[1] >= FEWEST_DRAWS:
        with np.errstate(divide="ignore", invalid="ignore"):
            found[varying] = statistic(columns[:, :, varying])
    return found.reshape(draws.shape[2:])


def constant(draws: Array) -> NDArray[np.bool_]:
    """Which columns of (C, D, ...) hold one value only; (...)."""
    return np.asarray(draws.max(axis=(0, 1)) == draws.min(axis=(0, 1)))


def halves(draws: Array) -> Array:
    """One chain (1, D, ...) as two of half the length, (2, D // 2, ...), so that chains can be compared; the middle
    draw of an odd number is left out. More chains come back as they are."""
    if len(draws) != 1:
        return draws
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, draws.shape[1] - half :]])


@dataclass(frozen=True)
class Convergence:
    """What the chains say about themselves. Values are NaN where too few draws, or none that vary, define them.

    rhat_logp: of the log posterior. rhat_function: largest of the log-probabilities of the inputs; ess_bulk_function,
    ess_tail_function: smallest. constant: log-probabilities that never changed and are left out. converged:
    rhat_function < 1.05 (strict: 1.01) and ess_bulk_function >= 100 C. diagnosed_on: where the inputs are from.
    split_halves: there is one chain, and its halves are compared: no sign of what it has not found. rhat_limit,
    ess_limit: what `converged` asks for. states: C D.
    """

    rhat_logp: float
    rhat_function: float
    ess_bulk_function: float
    ess_tail_function: float
    constant: int
    converged: bool
    diagnosed_on: str
    split_halves: bool
    rhat_limit: float = LARGEST_RHAT
    ess_limit: int = FEWEST_EFFECTIVE
    states: int = 0

    @classmethod
    def of(
        cls, log_posterior: Array, log_probs: Array, *, strict: bool = False, diagnosed_on: str = "val"
    ) -> Convergence:
        """log_posterior: (C, D). log_probs: (C, D, inputs, classes), see `function_values`.

        Raises:
            ValueError: the two are not of the same chains and draws.
        """
        if log_posterior.shape != log_probs.shape[:2]:
            raise ValueError(
                f"log_posterior {log_posterior.shape} and log_probs {log_probs.shape} must begin with the same chains "
                "and draws"
            )
        columns = _spaced(log_probs.reshape(*log_probs.shape[:2], -1), MOST_COLUMNS)
        rhat = _extreme(np.max, rank_rhat(columns))
        bulk, tail = (_extreme(np.min, sizes(columns)) for sizes in (ess_bulk, ess_tail))
        limit, enough = LARGEST_STRICT_RHAT if strict else LARGEST_RHAT, FEWEST_EFFECTIVE * len(log_posterior)
        return cls(
            rhat_logp=float(rank_rhat(log_posterior)),
            rhat_function=rhat,
            ess_bulk_function=bulk,
            ess_tail_function=tail,
            constant=int(constant(columns).sum()),
            converged=rhat < limit and bulk >= enough and bool(np.isfinite(columns).all()),
            diagnosed_on=diagnosed_on,
            split_halves=len(log_posterior) == 1,
            rhat_limit=limit,
            ess_limit=enough,
            states=log_posterior.size,
        )

    def diagnosis(self) -> str:
        """The criterion in words: `R-hat 1.02 (below 1.05), bulk ESS 312 (400 or more)`."""
        asked = f"{self.ess_limit} or more"
        if self.states < self.ess_limit:
            asked += f", out of reach of {self.states} states"
        text = f"R-hat {self.rhat_function:.3g} (below {self.rhat_limit:g})"
        text += f", bulk ESS {self.ess_bulk_function:.0f} ({asked})"
        text += " of the halves of one chain" if self.split_halves else ""
        return text + (" on training inputs" if self.diagnosed_on == "train" else "")

    def facts(self) -> dict[str, Fact]:
        """rhat_logp, rhat, ess_bulk, ess_tail (those that are finite), converged, diagnosed_on; rhat_of: chains, or
        halves of one; constant_outputs, if there are any."""
        numbers = {
            "rhat_logp": self.rhat_logp,
            "rhat": self.rhat_function,
            "ess_bulk": self.ess_bulk_function,
            "ess_tail": self.ess_tail_function,
        }
        found: dict[str, Fact] = {name: value for name, value in numbers.items() if math.isfinite(value)}
        found |= {"converged": self.converged, "diagnosed_on": self.diagnosed_on}
        found["rhat_of"] = "halves of one chain" if self.split_halves else "chains"
        return found | ({"constant_outputs": self.constant} if self.constant else {})


def weights_rhat(weights: Array, *, most: int = 2000, seed: int = 0) -> float:
    """Largest R-hat among a random `most` of aligned weights (C, D, p), secondary to `Convergence`; NaN if none varies.
    Of unaligned weights it says nothing."""
    p = weights.shape[2]
    chosen = np.sort(np.random.default_rng(seed).choice(p, size=min(most, p), replace=False))
    return _extreme(np.max, rank_rhat(weights[:, :, chosen]))


def fixed_inputs(problem: Problem, n: int = INPUTS) -> tuple[Tensor, str]:
    """`n` inputs, evenly spaced over the validation split (splits may be ordered by class), and its name, "val"; of
    the training split, "train", where there is none."""
    split = problem.train if problem.val is None else problem.val
    index = torch.linspace(0, len(split) - 1, min(n, len(split))).round().long()
    return split.select(index).inputs, "train" if problem.val is None else "val"


@torch.no_grad()
def function_values(
    network: nn.Module,
    shapes: Mapping[str, torch.Size],
    states: Tensor,
    buffers: Mapping[str, Tensor],
    inputs: Tensor,
) -> Array:
    """Log-probabilities (C, D, n, classes), float64, of inputs (n, C, H, W) under every state, in eval mode.

    shapes: of the tensors that lie one after the other in a state. states: (C, D, P). buffers: name -> (C, D, ...),
    running statistics of each state. What neither names is the network's own. States may be on the CPU: they go to the
    device of the inputs a few at a time.
    """
    chains, draws, size = states.shape
    flat = states.flatten(0, 1)
    own = {name: buffer.flatten(0, 1) for name, buffer in buffers.items()}
    few = max(1, CHUNK // size)

    def logits(state: Tensor, statistics: dict[str, Tensor]) -> Tensor:
        pieces = state.split([shape.numel() for shape in shapes.values()])
        weights = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        found: Tensor = functional_call(network, {**weights, **statistics}, (inputs,))
        return found

    found = []
    with evaluating(network), sdpa_kernel(SDPBackend.MATH):  # other kernels of attention have no batched form
        for start in range(0, len(flat), few):
            some = flat[start : start + few].to(inputs.device)
            statistics = {name: buffer[start : start + few].to(inputs.device) for name, buffer in own.items()}
            values = vmap(logits)(some, statistics) if len(some) > 1 else _alone(logits, some, statistics)
            found.append(values.double().log_softmax(-1).cpu())  # (few, n, K)
    values = torch.cat(found)
    return values.view(chains, draws, *values.shape[1:]).numpy()


def _alone(
    logits: Callable[[Tensor, dict[str, Tensor]], Tensor], state: Tensor, statistics: dict[str, Tensor]
) -> Tensor:
    """A single state without vmap, which turns its convolutions into grouped ones."""
    return logits(state[0], {name: buffer[0] for name, buffer in statistics.items()})[None]


def _spaced(columns: Array, most: int) -> Array:
    n = columns.shape[2]
    return columns if n <= most else columns[:, :, np.linspace(0, n - 1, most).round().astype(int)]


def _extreme(pick: Callable[[Array], Any], values: Array) -> float:
    """The largest or smallest of the values that exist; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(pick(known)) if known.size else math.nan

"""Activation matching: units are alike that are active on the same inputs.

Xiao, Liu, Bamler (arXiv 2401.00611): per group one linear assignment on S_ij = sum over inputs (and positions) of
z_A,i z_B,j, raw activations. Groups do not influence each other, so there are no local optima and no restarts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from benchmark import ConfigError, Split, evaluating, forward
from methods.symmetry.groups import PermutationGroups, Tap
from methods.symmetry.matched import Match
from methods.symmetry.precise import exact_products

CACHE_BYTES = 2**30
"""Most that is kept of a reference's activations; larger ones are computed for every pair."""
BATCH_SIZES = (512, 4096)
BATCH_BYTES = 2**26
"""Of activations in a batch, within these sizes: small batches keep several threads waiting for each other."""

Version = tuple[Tensor, int]


@dataclass
class Moments:
    """Sums over inputs and positions of two networks' activations of one group, float64. cross: (n, n); the others
    (n,)."""

    cross: Tensor
    first: Tensor
    second: Tensor
    first_squared: Tensor
    second_squared: Tensor
    count: int = 0

    @staticmethod
    def zeros(size: int, device: torch.device) -> Moments:
        rows = torch.zeros(size + 4, size, dtype=torch.float64, device=device)
        return Moments(rows[4:], *rows[:4])

    def add(self, a: Tensor, b: Tensor, *, spreads: bool) -> None:
        """a, b: (positions, n) of one batch. spreads: all sums, as `correlation` needs them, and not `cross` alone."""
        self.cross += a.T @ b
        if not spreads:
            return
        self.first += a.sum(0)
        self.second += b.sum(0)
        self.first_squared += a.square().sum(0)
        self.second_squared += b.square().sum(0)
        self.count += len(a)

    def correlation(self) -> Tensor:
        """(n, n); 0 for a unit that is constant."""
        covariance = self.cross - torch.outer(self.first, self.second) / self.count
        spread_a = self.first_squared - self.first.square() / self.count
        spread_b = self.second_squared - self.second.square() / self.count
        # Below rounding a spread is none: a dead unit correlates with nothing.
        alive_a = spread_a > 1e-6 * self.first_squared
        alive_b = spread_b > 1e-6 * self.second_squared
        scale = torch.outer(spread_a.clamp(min=0).sqrt(), spread_b.clamp(min=0).sqrt())
        return torch.where(torch.outer(alive_a, alive_b), covariance / scale, 0.0)


@dataclass
class Activations:
    """Where activations of a network are read, and those of a reference, kept for the next pair.

    network: left untouched; run in eval mode with the weights that are compared. split: its inputs, in stored order
    and not augmented, on the network's device. batch_size: inputs of a forward pass; by default as many as suit the
    size of the activations. normalise: `corr` for correlations in place of raw products.

    Raises:
        ConfigError: a group has no place where its activations can be read.
    """

    network: nn.Module
    groups: PermutationGroups
    split: Split
    batch_size: int | None = None
    normalise: str | None = None
    _reference: tuple[list[Version], list[dict[str, Tensor]]] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        without = [group for group in self.groups.sizes if group not in self.groups.taps]
        if without:
            raise ConfigError(
                f"the activations of {len(without)} groups of units cannot be read, the first is '{without[0]}' "
                "(attention heads have none). Use matching: weight"
            )
        if self.normalise not in (None, "corr"):
            raise ConfigError(f"normalise '{self.normalise}' is unknown; legal: corr, or none")

    def similarities(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Group -> (n, n) float64 similarity of the units of both networks, streamed over batches."""
        device = self.split.device
        sums = {group: Moments.zeros(size, device) for group, size in self.groups.sizes.items()}
        with torch.no_grad(), exact_products(), evaluating(self.network):
            for first, second in zip(self._of_reference(a), self._of(b), strict=True):
                for group, moments in sums.items():
                    moments.add(first[group], second[group], spreads=self.normalise == "corr")
        if self.normalise == "corr":
            return {group: moments.correlation() for group, moments in sums.items()}
        return {group: moments.cross for group, moments in sums.items()}

    def _of_reference(self, weights: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """As `_of`; kept, where they fit, as long as the same tensors are asked for, unchanged."""
        key = [(tensor, tensor._version) for tensor in weights.values()]
        if self._reference is not None and _same(self._reference[0], key):
            yield from self._reference[1]
            return
        self._reference, kept, size = None, [], 0
        for batch in self._of(weights):
            size += sum(tensor.nbytes for tensor in batch.values())
            if size <= CACHE_BYTES:
                kept.append(batch)
            yield batch
        if size <= CACHE_BYTES:
            self._reference = key, kept

    def _of(self, weights: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Per batch: group -> (positions, n)."""
        for inputs, _ in self.split.batches(self._batch_size(weights)):
            with _reading(self.network, self.groups) as batch:
                forward(self.network, weights, inputs)
            yield batch

    def _batch_size(self, weights: Mapping[str, Tensor]) -> int:
        if self.batch_size is not None:
            return self.batch_size
        with _reading(self.network, self.groups) as one:
            forward(self.network, weights, self.split.first(1).inputs)
        least, most = BATCH_SIZES
        size = sum(tensor.nbytes for tensor in one.values())
        return min(max(BATCH_BYTES // max(size, 1), least), most)


def match_activations(activations: Activations, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Match:
    """The permutations of the units of `b` that are active with those of `a`. a, b: name -> tensor, all weights."""
    permutations, objective = {}, 0.0
    for group, similarity in activations.similarities(a, b).items():
        own = similarity.cpu().numpy()
        rows, columns = linear_sum_assignment(own, maximize=True)
        permutations[group] = torch.as_tensor(columns, dtype=torch.int64)
        objective += float(own[rows, columns].sum())
    return Match(permutations, objective, starts=(objective,))


def _same(first: list[Version], second: list[Version]) -> bool:
    return len(first) == len(second) and all(
        a is b and before == now for (a, before), (b, now) in zip(first, second, strict=True)
    )


@contextmanager
def _reading(network: nn.Module, groups: PermutationGroups) -> Iterator[dict[str, Tensor]]:
    """Inside, a forward pass fills in group -> (positions, n)."""
    found: dict[str, Tensor] = {}

    def keep(group: str, tap: Tap, tensor: Tensor) -> None:
        units = tensor.movedim(tap.axis, -1).narrow(-1, tap.start, groups.sizes[group])
        # A copy: what follows may be done in place.
        found[group] = units.reshape(-1, groups.sizes[group]).clone()

    def at_input(group: str, tap: Tap) -> Any:
        return lambda module, inputs: keep(group, tap, inputs[0])

    def at_output(group: str, tap: Tap) -> Any:
        return lambda module, inputs, output: keep(group, tap, output)

    with ExitStack() as hooks:
        for group, tap in groups.taps.items():
            module = network.get_submodule(tap.module)
            handle = (
                module.register_forward_pre_hook(at_input(group, tap))
                if tap.side == "input"
                else module.register_forward_hook(at_output(group, tap))
            )
            hooks.callback(handle.remove)
        yield found

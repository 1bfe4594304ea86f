"""What matching two networks gives, and doing it to weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from methods.symmetry.groups import PermutationGroups, Permutations, composed
from methods.symmetry.heads import HeadRotations


@dataclass(frozen=True)
class Match:
    """How the second network is relabelled to be like the first.

    permutations: group -> (n,) int64, CPU. objective: the similarity that was made as large as could be. gains: by how
    much each accepted step raised it, from where the best run started. sweeps: passes of that run over all groups.
    starts: the objective that every run ended with. rotations: what is done inside of attention heads afterwards, if
    anything.
    """

    permutations: Permutations
    objective: float
    gains: tuple[float, ...] = ()
    sweeps: int = 1
    starts: tuple[float, ...] = ()
    rotations: HeadRotations | None = None

    def after(self, first: Match, groups: PermutationGroups) -> Match:
        """One step for two: `apply(groups, second.after(first, groups), w)` is `apply(second, apply(first, w))`."""
        rotations = first.rotations.permuted(groups, self.permutations) if first.rotations else None
        if self.rotations is not None:
            rotations = self.rotations.after(rotations) if rotations else self.rotations
        return Match(
            composed(first.permutations, self.permutations),
            self.objective,
            first.gains + self.gains,
            first.sweeps + self.sweeps,
            self.starts,
            rotations,
        )


def apply(groups: PermutationGroups, match: Match, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The relabelled weights, same function: permuted, then rotated inside of heads. Keys and order as of `weights`.

    Tensors that nothing happens to are the very same ones.

    Raises:
        KeyError: a name that the groups do not know.
    """
    permuted = groups.permuted(weights, match.permutations)
    return permuted if match.rotations is None else match.rotations.rotated(groups, permuted)

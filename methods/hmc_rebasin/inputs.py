"""What an experiment looks at: the samples of a run, before and after alignment, and their summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from benchmark import Problem, RunContext, Split
from methods.hmc.posterior import ChainSamples
from methods.hmc_rebasin.build import Built
from methods.hmc_rebasin.config import RebasinConfig
from methods.symmetry.align import Aligned
from methods.symmetry.groups import PermutationGroups
from methods.symmetry.stack import sample_of


@dataclass(frozen=True)
class Material:
    """run: the samples. rest: what a forward pass needs besides them. aligned, built: what the row has made of them."""

    problem: Problem
    ctx: RunContext
    config: RebasinConfig
    groups: PermutationGroups
    run: ChainSamples
    rest: Mapping[str, Tensor]
    aligned: Aligned
    built: Built

    @property
    def split(self) -> Split:
        """Validation data; training data without augmentation where there are none."""
        train = self.problem.train
        return train.first(len(train)) if self.problem.val is None else self.problem.val

    @property
    def count(self) -> int:
        """K, samples of all chains."""
        return self.run.support

    def sample(self, index: int) -> dict[str, Tensor]:
        """Number `index` of all samples, chain by chain, as it came: everything that a forward pass needs."""
        return self.run.weights(*divmod(index, self.run.per_chain))

    def aligned_sample(self, index: int) -> dict[str, Tensor]:
        """The same relabelled; running statistics are still those of the unaligned units."""
        return {**self.rest, **sample_of(self.aligned.samples, index)}

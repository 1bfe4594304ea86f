"""`last_block_ensemble`: an ensemble in the last block, whose members disagree about noisy inputs (LiBRe).

Deng, Yang, Xu, Su, Zhu, "LiBRe: A Practical Bayesian Approach to Adversarial Detection" (CVPR 2021, arXiv 2103.14835).
The members share everything before the last block, so that a prediction of C members costs one pass and C - 1 last
blocks. A Gaussian over the same block, without the noisy inputs, is `mean_field` with `select: last_blocks:1`. This
module only declares; what computes is imported when a run starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark import Method, Need, Posterior, Problem, RunContext
from methods.last_block_ensemble.config import LastBlockEnsembleConfig

if TYPE_CHECKING:
    from methods.last_block_ensemble.posterior import LastBlockPosterior


class LastBlockEnsemble(Method):
    """C copies of the last block, fine-tuned to agree on data and to disagree on noise; the disagreement is a score."""

    name = "last_block_ensemble"
    Config = LastBlockEnsembleConfig

    def needs(self, config: LastBlockEnsembleConfig) -> tuple[Need, ...]:
        return (Need("map"),)

    def fit(self, problem: Problem, ctx: RunContext, config: Any) -> LastBlockPosterior:
        from methods.last_block_ensemble.fit import fit_last_block_ensemble

        return fit_last_block_ensemble(problem, ctx, config)

    def posterior_type(self) -> type[Posterior]:
        from methods.last_block_ensemble.posterior import LastBlockPosterior

        return LastBlockPosterior

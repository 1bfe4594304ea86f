"""`wfn`, from the base network to the posterior: iterations of training and fixing, then new running statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmark import Fact, Problem, RunContext
from methods.finetuning.select import Selection
from methods.fixed_weights.fit import FixingFit
from methods.fixed_weights.grid import MOST_CODES
from methods.fixed_weights.picks import RoundRecord
from methods.fixed_weights.posterior import FixedPosterior
from methods.fixed_weights.record import Round, evaluation_columns
from methods.fixed_weights.state import FixingState
from methods.weight_fixing.candidates import GAMMA_BITS, grid_bits
from methods.weight_fixing.config import LARGEST_DELTA, WfnConfig
from methods.weight_fixing.iterations import fix_iteration, fixed_quota
from methods.weight_fixing.learner import WfnLearner
from methods.weight_fixing.schedule import Schedule
from methods.weight_fixing.scope import wfn_scope

CAPTION = (
    "Left: share of the weights that each iteration of clustering fixed, the entropy of the labels after it, and the "
    "validation accuracy before and after the clustering. Right: how many weights have each value."
)
MOST_STEPS = MOST_CODES // 2
"""Of the grid that a weight may have: the power of two nearest to it may be sqrt(2) times as large."""


def fit_wfn(problem: Problem, ctx: RunContext, config: WfnConfig) -> FixedPosterior:
    """The fitted posterior, a point; the problem's network is left as it was.

    Raises:
        ConfigError: no weight in scope, or the network ignores replaced weights; a weight is too large for the codes.
        Diverged: a weight of the base network is not finite, the loss stays so, or a weight becomes so.
    """
    fit = _Fit(problem, ctx, config)
    fit.train()
    return fit.finish()


class _Fit:
    """What is this method's own: scope, grid, schedule and the iteration."""

    def __init__(self, problem: Problem, ctx: RunContext, config: WfnConfig) -> None:
        def state_of(selection: Selection) -> FixingState:
            # int32: the grid is that of the smallest power
            return FixingState(problem.network, selection, grid_bits(config.delta), code_dtype=torch.int32)

        scope = wfn_scope(problem.network, config.include_norm)
        self.problem, self.config = problem, config
        self.stages = FixingFit(problem, ctx, scope=scope, state_of=state_of, batch_size=config.batch_size)
        self.state = self.stages.state
        self.state.require_legal_sizes(MOST_STEPS, larger_delta)
        self.schedule = Schedule(config, problem)

    def train(self) -> None:
        """All iterations, from a checkpoint if there is one."""
        learner = WfnLearner(self.problem.network, self.state, self.config, self.stages.learned())

        def after(number: int) -> None:
            index = self.schedule.closes(number)
            if index is not None:
                learner.begin_iteration(self._cluster(index))

        self.stages.train(learner, self.schedule.lengths, after=after)
        learner.release()

    def finish(self) -> FixedPosterior:
        """Running statistics of the final weights, and what they validate to; the result."""
        self.state.require_finite()
        self.stages.reestimate(self.config.bn_reestimate_batches, WfnLearner.advice)
        self.stages.facts |= evaluation_columns("mean", self.stages.evaluate_mean())
        self.stages.facts |= iteration_facts(self.stages.record.rounds)
        return self.stages.posterior("mean", CAPTION)

    def _cluster(self, index: int) -> Tensor:
        """One iteration; the values picked, (K,)."""
        config, weights = self.config, self.state.weights
        self.state.require_finite()
        self.state.require_legal_sizes(MOST_STEPS, larger_delta)

        def fix(pick_of: Tensor) -> RoundRecord:
            target = fixed_quota(config.fractions[index], len(weights))
            return fix_iteration(weights, target, config.distances()[index], pick_of=pick_of)

        done = self.stages.cluster(index, config.fractions[index], fix, anew=config.recluster_all)
        return torch.tensor(sorted({pick.code for pick in done.picks})) * 2.0**-weights.b


def larger_delta(b: int) -> str:
    """What to do where no grid finer than 2^-b is legal."""
    if b < grid_bits(LARGEST_DELTA):
        return f"Rescale the network: no delta up to {LARGEST_DELTA:g} has a grid that is coarse enough."
    least = math.ceil(1000 * 2.0 ** (GAMMA_BITS - b - 0.5)) / 1000
    return f"Set delta to at least {least:g}."


def iteration_facts(rounds: Sequence[Round]) -> dict[str, Fact]:
    """max_order: most powers of two beyond the first that a pick was allowed. max_reach: longest relative distance of
    a pick."""
    picks = [pick for one in rounds for pick in one.picks]
    return {
        "max_order": max((pick.omega - 1 for pick in picks), default=0),
        "max_reach": max((pick.delta for pick in picks), default=0.0),
    }

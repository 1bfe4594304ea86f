"""`pwfn`, from the base network to the posterior: rounds of training and fixing, then pool, re-estimate, choose."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from benchmark import Fact, Problem, RunContext, Weights
from methods.finetuning.flat import Flat
from methods.finetuning.select import Selection, layer_biases
from methods.fixed_weights.encoding import Predict
from methods.fixed_weights.fit import FixingFit
from methods.fixed_weights.grid import MOST_CODES
from methods.fixed_weights.picks import RoundRecord
from methods.fixed_weights.posterior import FixedPosterior
from methods.fixed_weights.record import Round, evaluation_columns
from methods.fixed_weights.scope import scope_of
from methods.fixed_weights.state import FixingState
from methods.probabilistic_weight_fixing.checks import coarser_grid
from methods.probabilistic_weight_fixing.config import WeightFixingConfig
from methods.probabilistic_weight_fixing.learner import FixingLearner
from methods.probabilistic_weight_fixing.passes import passes_of
from methods.probabilistic_weight_fixing.pool import pool_sigma
from methods.probabilistic_weight_fixing.rounds import fix_round, fixed_target
from methods.probabilistic_weight_fixing.sigma import initial_sigma

log = logging.getLogger("bnnbench")

FAST_RATE, SLOW_RATE, LONG_ROUND = 1e-2, 1e-3, 2000
"""`lr: auto`, and the steps of a full round from which on it is the slow one."""
LATE = 8
"""Times delta_start: weights that need a longer reach count as late."""
CAPTION = (
    "Left: share of the weights that each round of clustering fixed, the entropy of the labels after it, and the "
    "validation accuracy of the means before and after the clustering. Right: how many weights have each value."
)


def fit_weight_fixing(problem: Problem, ctx: RunContext, config: WeightFixingConfig) -> FixedPosterior:
    """The fitted posterior; the problem's network is left as it was.

    Raises:
        ConfigError: no weight in scope, or the network ignores replaced weights; a weight is too large for the grid; a
            round needs more than `max_phases`.
        Diverged: a weight of the base network is not finite, the loss stays so, or a weight becomes so.
    """
    fit = _Fit(problem, ctx, config)
    fit.train()
    return fit.finish()


class _Fit:
    """What is this method's own: passes, noise, the round, and the choice between means and draws."""

    def __init__(self, problem: Problem, ctx: RunContext, config: WeightFixingConfig) -> None:
        def state_of(selection: Selection) -> FixingState:
            return FixingState(problem.network, selection, config.b, initial_sigma=lambda mu: initial_sigma(mu, config))

        scope = scope_of(problem.network, config.scope)
        self.problem, self.ctx, self.config = problem, ctx, config
        self.stages = FixingFit(problem, ctx, scope=scope, state_of=state_of, batch_size=config.batch_size)
        self.state = self.stages.state
        self.state.require_legal_sizes(MOST_CODES, coarser_grid)
        self.passes = passes_of(config, problem)
        self.rate = self._rate()
        self.stages.facts["lr"] = self.rate

    def train(self) -> None:
        """All rounds, from a checkpoint if there is one."""
        learner = self._learner()

        def before(number: int) -> None:
            learner.part = self.passes[number].part

        def after(number: int) -> None:
            one = self.passes[number]
            if one.closes:
                p, anew = self.config.fractions[one.round], self.config.recluster_all
                self.stages.cluster(one.round, p, lambda pick_of: self._fix(one.round, pick_of), anew=anew)
                learner.begin_round()

        self.stages.train(learner, [one.steps for one in self.passes], before=before, after=after)
        learner.release()

    def finish(self) -> FixedPosterior:
        """Sigma and running statistics of the final weights; what predictions are made with; the result."""
        self.state.require_finite()
        if self.config.sigma_pool == "value":
            pool_sigma(self.state.weights)
        self.stages.reestimate(self.config.bn_reestimate_batches, FixingLearner.advice)
        predict = self._choose()
        self.stages.facts |= {"predict": predict, **reach_facts(self.stages.record.rounds, self.config.delta_start)}
        return self.stages.posterior(predict, CAPTION)

    def _fix(self, index: int, pick_of: Tensor) -> RoundRecord:
        config, weights = self.config, self.state.weights
        target = fixed_target(config.fractions[index], len(weights))
        reach = config.deltas()[index]
        return fix_round(weights, target, reach, config, pick_of=pick_of, sizes=self.state.sizes)

    def _choose(self) -> Predict:
        """Means or draws, as asked for or by validation; both validations go to the facts."""
        mean, draws = self.stages.evaluate_mean(), self.stages.evaluate(self._draws())
        if mean is None or draws is None:
            if self.config.predict == "auto":
                log.warning("There are no validation data to choose by: predictions are made with the means.")
            return "draws" if self.config.predict == "draws" else "mean"
        self.stages.facts |= {**evaluation_columns("mean", mean), **evaluation_columns("draws", draws)}
        if self.config.predict != "auto":
            return self.config.predict
        return "draws" if draws.nll < mean.nll else "mean"

    def _draws(self) -> Iterator[Weights]:
        generator = torch.Generator(self.ctx.device).manual_seed(self.ctx.seed_for("validation"))
        sample = Flat.like(self.state.mu)
        return (self.state.draw(sample, generator) for _ in range(self.config.val_draws))

    def _learner(self) -> FixingLearner:
        unpushed = set() if self.config.reg_bias else set(layer_biases(self.problem.network))
        return FixingLearner(
            self.problem.network,
            self.state,
            self.config,
            self.rate,
            self.ctx.generator("noise", self.ctx.device),
            learned=self.stages.learned(),
            pushed=self.state.mask(name for name in self.state.mu.views if name not in unpushed),
        )

    def _rate(self) -> float:
        if self.config.lr != "auto":
            return self.config.lr
        full_round = self.problem.epochs(self.config.rest_epochs) * self.problem.train.steps(self.config.batch_size)
        return FAST_RATE if full_round * (1 + self.config.alternate) < LONG_ROUND else SLOW_RATE


def reach_facts(rounds: Sequence[Round], delta_start: float) -> dict[str, Fact]:
    """max_delta: longest reach of a pick. late_fraction: share of the weights fixed by a pick with more than 8
    delta_start, 0 of none. negative_sigma: largest share of the weights of a round whose sigma training had left below
    0."""
    picks = [pick for one in rounds for pick in one.picks]
    late = sum(pick.count for pick in picks if pick.delta > LATE * delta_start)
    return {
        "max_delta": max((pick.delta for pick in picks), default=0.0),
        "late_fraction": late / max(1, sum(pick.count for pick in picks)),
        "negative_sigma": max(one.negative_sigma or 0.0 for one in rounds),
    }

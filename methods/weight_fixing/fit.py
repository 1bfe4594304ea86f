"""`wfn`, from the base network to the posterior: iterations of training and fixing, then new running statistics."""

from __future__ import annotations

import logging

import torch

from benchmark import ConfigError, Fact, Problem, RunContext, Weights, weights_of
from methods.finetuning.loop import require_finite_points
from methods.finetuning.modes import only_norms_training, resolve_bn
from methods.finetuning.precision import Precision
from methods.finetuning.probe import keep_used
from methods.finetuning.search import scan_batch
from methods.finetuning.select import Selection
from methods.finetuning.statistics import average_statistics
from methods.finetuning.step import Step, launchers_micro_batch
from methods.map.evaluation import Evaluation
from methods.probabilistic_weight_fixing.candidates import MOST_CODES
from methods.probabilistic_weight_fixing.codebook import Codebook, value_counts
from methods.probabilistic_weight_fixing.encoding import Stored
from methods.probabilistic_weight_fixing.figure import fixing_figure
from methods.probabilistic_weight_fixing.posterior import FixedPosterior
from methods.probabilistic_weight_fixing.record import Record, Round, evaluation_columns
from methods.probabilistic_weight_fixing.report import entropy_bits, layer_records, omega_counts, value_facts
from methods.probabilistic_weight_fixing.settings import FixingSettings
from methods.probabilistic_weight_fixing.state import FixingState
from methods.probabilistic_weight_fixing.validation import evaluate_draws
from methods.training import train
from methods.weight_fixing.candidates import grid_bits
from methods.weight_fixing.config import WfnConfig
from methods.weight_fixing.iterations import fix_iteration, fixed_quota
from methods.weight_fixing.learner import WfnLearner
from methods.weight_fixing.schedule import Schedule
from methods.weight_fixing.scope import wfn_scope

log = logging.getLogger("bnnbench")

CAPTION = (
    "Left: share of the weights that each iteration of clustering fixed, the entropy of the labels after it, and the "
    "validation accuracy before and after the clustering. Right: how many weights have each value."
)
OF_SIGMA = ("negative_sigma", "median_sigma", "mean_sigma")
"""Columns of the shared records that say nothing of a point."""


def fit_wfn(problem: Problem, ctx: RunContext, config: WfnConfig) -> FixedPosterior:
    """The fitted posterior, a point; the problem's network is left as it was.

    Raises:
        ConfigError: no weight in scope, or the network ignores replaced weights; a weight is too large for the codes.
        Diverged: a weight of the base network is not finite, the loss stays so, or a weight becomes so.
    """
    fit = _Fit(problem, ctx, config)
    fit.train()
    fit.finish()
    return fit.posterior()


class _Fit:
    """What the stages of one fit share."""

    def __init__(self, problem: Problem, ctx: RunContext, config: WfnConfig) -> None:
        self.problem, self.ctx, self.config, self.network = problem, ctx, config, problem.network
        scope = wfn_scope(self.network, config.include_norm)
        used = keep_used(self.network, scope, problem.train, ctx.seed_for("probe"))
        frozen = tuple(name for name in used.frozen if name not in scope.bayesian)  # what is unused is fixed, too
        grid = FixingSettings(b=grid_bits(config.delta), sigma_init="constant")
        self.state = FixingState(self.network, Selection(scope.bayesian, used.trained, frozen), grid)
        self.state.weights.sigma.zero_()  # a point
        self.state.weights.code = self.state.weights.code.int()  # int32: the grid is that of the smallest power
        self.schedule = Schedule(config, problem)
        self.bn = resolve_bn(self.network, "train", len(problem.train) // problem.train.steps(config.batch_size))
        self.record = Record()
        self.facts: dict[str, Fact] = {"bn": self.bn}

    def train(self) -> None:
        """All iterations, from a checkpoint if there is one."""
        if self.ctx.checkpoint.load() is None:
            self.record.facts |= evaluation_columns("base", self._evaluate(weights_of(self.network)))
            self.ctx.log(event="start", **self.record.facts)
        learner = self._learner()
        micro_batch = launchers_micro_batch(self.ctx, self.config.batch_size, harmless=self.bn != "train")
        step = Step(learner, micro_batch=micro_batch, precision=Precision("fp32", self.ctx.device))

        def after(number: int, loss: float) -> None:
            step.look()
            self.record.training.stop()
            if self.schedule.lengths[number]:
                self.ctx.log(epoch=number + 1, train_loss=loss, skipped_steps=step.skipped)
            iteration = self.schedule.closes(number)
            if iteration is not None:
                learner.begin_iteration(self._cluster(iteration))

        with only_norms_training(self.network, self.bn == "train"):
            train(
                self.problem,
                self.ctx,
                epochs=len(self.schedule.lengths),
                batch_size=self.config.batch_size,
                step=step,
                stateful={"step": step, "record": self.record},
                before_epoch=lambda number: self.record.training.start(),
                after_epoch=after,
                lengths=self.schedule.lengths,
            )
        learner.release()
        self.facts |= {"skipped_steps": step.skipped, "seconds_train": self.record.training.seconds}

    def finish(self) -> None:
        """Running statistics of the final weights, and what they validate to."""
        if self.bn == "train" and self.config.bn_reestimate_batches > 0:
            average_statistics(
                self.network,
                self.state.points,
                lambda generator: self.state.mu.views,
                self.problem.train,
                self.config.batch_size,
                self.ctx.seed_for("reestimate"),
                min(self.config.bn_reestimate_batches, self.problem.train.steps(self.config.batch_size)),
            )
        self.state.require_finite()
        require_finite_points(self.state.points, WfnLearner.advice)
        self.facts |= evaluation_columns("mean", self._evaluate(self.state.mean()))

    def posterior(self) -> FixedPosterior:
        """The result, with its facts; figure and records of the tensors."""
        state, rounds = self.state, self.record.rounds
        book = Codebook.of_values(state.weights)
        rest = sum(tensor.numel() for group in (state.points.trained, state.points.fixed) for tensor in group.values())
        buffers = sum(tensor.numel() for tensor in state.points.buffers.values() if tensor.is_floating_point())
        self.facts |= self.record.facts
        self.facts |= {"weights": len(state), "rest": rest, "buffers": buffers}
        self.facts |= value_facts(book.codes, book.counts(), rest)
        self.facts |= _iteration_facts(rounds)
        for values in layer_records(state, book, weights_of(self.network), self.record):
            self._log(values)
        self.ctx.figure("fixing", fixing_figure(rounds, book, state.weights.b), CAPTION)
        points = {name: tensor.to(torch.float32, copy=True) for name, tensor in state.points.floats().items()}
        return FixedPosterior(Stored.of(state.mu.shapes(), state.weights, "mean"), points, self.facts)

    def _cluster(self, index: int) -> torch.Tensor:
        """One iteration, with validations around it; the values picked, (K,)."""
        state, weights = self.state, self.state.weights
        state.require_finite()
        _check_sizes(state)
        before = self._evaluate(state.mean())
        if self.config.recluster_all:
            weights.fixed.zero_()
        target = fixed_quota(self.config.fractions[index], len(weights))
        left = max(0, target - int(weights.fixed.sum()))
        pick_of = torch.empty(len(weights), dtype=torch.int32, device=weights.mu.device)
        done = fix_iteration(weights, target, self.config.distances()[index], pick_of=pick_of)
        one = Round(
            p=self.config.fractions[index],
            left=left,
            picks=done.picks,
            phases=done.phases,
            seconds=done.seconds,
            fixed=int(weights.fixed.sum()),
            entropy_bits=entropy_bits(value_counts(weights)[1]),
            median_sigma=None,
            negative_sigma=0.0,
            before=before,
            after=self._evaluate(state.mean()),
        )
        self.record.add(one, omega_counts(pick_of, done.picks, list(state.sizes.values())), len(state.sizes))
        self._log({"event": "round", "round": index, **one.values()})
        return torch.tensor(sorted({pick.code for pick in done.picks})) * 2.0**-weights.b

    def _log(self, values: dict[str, float | int | str]) -> None:
        self.ctx.log(**{name: value for name, value in values.items() if name not in OF_SIGMA})

    def _evaluate(self, weights: Weights) -> Evaluation | None:
        if self.problem.val is None:
            return None
        return evaluate_draws(self.network, [weights], self.problem.val, scan_batch(self.ctx))

    def _learner(self) -> WfnLearner:
        names = self.state.mu.views
        trained = (name for name in names if self.network.get_parameter(name).requires_grad)
        return WfnLearner(self.network, self.state, self.config, self.state.mask(trained))


def _check_sizes(state: FixingState) -> None:
    """Raise ConfigError when a weight is too large for codes that are counted in a table; names the tensor."""
    legal = MOST_CODES / 2 ** (state.weights.b + 1)  # the nearest power of two may be sqrt(2) times as large
    for name, tensor in state.mu.views.items():
        largest = float(tensor.detach().abs().max()) if tensor.numel() else 0.0
        if largest > legal:
            raise ConfigError(
                f"the largest weight of '{name}' is {largest:g}; legal: up to {legal:g}, as values are multiples of "
                f"2^-{state.weights.b} with at most {MOST_CODES:,} steps. Raise delta, or rescale the network."
            )


def _iteration_facts(rounds: list[Round]) -> dict[str, Fact]:
    """picks, phases: of all iterations. max_order: most powers of two beyond the first that a pick was allowed.
    max_reach: longest relative distance of a pick."""
    picks = [pick for one in rounds for pick in one.picks]
    return {
        "picks": len(picks),
        "phases": sum(one.phases for one in rounds),
        "max_order": max((pick.omega - 1 for pick in picks), default=0),
        "max_reach": max((pick.delta for pick in picks), default=0.0),
        "seconds_cluster": sum(one.seconds for one in rounds),
    }

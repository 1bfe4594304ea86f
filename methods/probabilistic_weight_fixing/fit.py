"""`pwfn`, from the base network to the posterior: rounds of training and fixing, then pool, re-estimate, choose."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import torch

from benchmark import Fact, Problem, RunContext, Split, Weights, weights_of
from methods.finetuning.flat import Flat
from methods.finetuning.loop import require_finite_points
from methods.finetuning.modes import only_norms_training, resolve_bn
from methods.finetuning.precision import Precision
from methods.finetuning.probe import keep_used
from methods.finetuning.search import scan_batch
from methods.finetuning.select import Selection, layer_biases
from methods.finetuning.statistics import average_statistics
from methods.finetuning.step import Step, launchers_micro_batch
from methods.map.evaluation import Evaluation
from methods.probabilistic_weight_fixing.codebook import Codebook, pool_sigma, value_counts
from methods.probabilistic_weight_fixing.config import WeightFixingConfig
from methods.probabilistic_weight_fixing.encoding import Predict, Stored
from methods.probabilistic_weight_fixing.figure import fixing_figure
from methods.probabilistic_weight_fixing.learner import FixingLearner
from methods.probabilistic_weight_fixing.passes import passes_of
from methods.probabilistic_weight_fixing.posterior import FixedPosterior
from methods.probabilistic_weight_fixing.record import Record, Round, evaluation_columns
from methods.probabilistic_weight_fixing.report import (
    entropy_bits,
    layer_records,
    omega_counts,
    round_facts,
    value_facts,
)
from methods.probabilistic_weight_fixing.rounds import fix_round, fixed_target
from methods.probabilistic_weight_fixing.scope import scope_of
from methods.probabilistic_weight_fixing.state import FixingState
from methods.probabilistic_weight_fixing.validation import evaluate_draws
from methods.training import train

log = logging.getLogger("bnnbench")

FAST_RATE, SLOW_RATE, LONG_ROUND = 1e-2, 1e-3, 2000
"""`lr: auto`, and the steps of a full round from which on it is the slow one."""
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
    fit.finish()
    return fit.posterior()


class _Fit:
    """What the stages of one fit share."""

    predict: Predict

    def __init__(self, problem: Problem, ctx: RunContext, config: WeightFixingConfig) -> None:
        self.problem, self.ctx, self.config, self.network = problem, ctx, config, problem.network
        scope = scope_of(self.network, config.scope)
        used = keep_used(self.network, scope, problem.train, ctx.seed_for("probe"))
        frozen = tuple(name for name in used.frozen if name not in scope.bayesian)  # what is unused is fixed, too
        self.state = FixingState(self.network, Selection(scope.bayesian, used.trained, frozen), config)
        self.passes = passes_of(config, problem)
        self.rate = self._rate()
        self.bn = resolve_bn(self.network, "train", len(problem.train) // problem.train.steps(config.batch_size))
        self.record = Record()
        self.facts: dict[str, Fact] = {"lr": self.rate, "bn": self.bn}

    def train(self) -> None:
        """All rounds, from a checkpoint if there is one."""
        if self.ctx.checkpoint.load() is None and self.problem.val is not None:
            self.record.facts |= evaluation_columns("base", self._evaluate_mean())
            self.ctx.log(event="start", **self.record.facts)
        learner = self._learner()
        micro_batch = launchers_micro_batch(self.ctx, self.config.batch_size, harmless=self.bn != "train")
        step = Step(learner, micro_batch=micro_batch, precision=Precision("fp32", self.ctx.device))

        def before(number: int) -> None:
            learner.part = self.passes[number].part
            self.record.training.start()

        def after(number: int, loss: float) -> None:
            step.look()
            self.record.training.stop()
            if self.passes[number].steps:
                self.ctx.log(epoch=number + 1, train_loss=loss, skipped_steps=step.skipped)
            if self.passes[number].closes:
                self._cluster(self.passes[number].round)
                learner.begin_round()

        with only_norms_training(self.network, self.bn == "train"):
            train(
                self.problem,
                self.ctx,
                epochs=len(self.passes),
                batch_size=self.config.batch_size,
                step=step,
                stateful={"step": step, "record": self.record},
                before_epoch=before,
                after_epoch=after,
                lengths=[one.steps for one in self.passes],
            )
        learner.release()
        self.facts |= {"skipped_steps": step.skipped, "seconds_train": self.record.training.seconds}

    def finish(self) -> None:
        """Sigma and running statistics of the final weights; what predictions are made with."""
        config = self.config
        self.state.require_finite()
        if config.sigma_pool == "value":
            pool_sigma(self.state.weights)
        if self.bn == "train" and config.bn_reestimate_batches > 0:
            average_statistics(
                self.network,
                self.state.points,
                lambda generator: self.state.mu.views,
                self.problem.train,
                config.batch_size,
                self.ctx.seed_for("reestimate"),
                min(config.bn_reestimate_batches, self.problem.train.steps(config.batch_size)),
            )
        require_finite_points(self.state.points, FixingLearner.advice)
        self.predict = self._choose()

    def posterior(self) -> FixedPosterior:
        """The result, with its facts; figure and records of the tensors."""
        state, rounds = self.state, self.record.rounds
        book = Codebook.of_values(state.weights)
        rest = sum(tensor.numel() for group in (state.points.trained, state.points.fixed) for tensor in group.values())
        buffers = sum(tensor.numel() for tensor in state.points.buffers.values() if tensor.is_floating_point())
        self.facts |= self.record.facts
        self.facts |= {"weights": len(state), "rest": rest, "buffers": buffers, "predict": self.predict}
        self.facts |= value_facts(book.codes, book.counts(), rest)
        self.facts |= round_facts(rounds, self.config.delta_start)
        for values in layer_records(state, book, weights_of(self.network), self.record):
            self.ctx.log(**values)
        self.ctx.figure("fixing", fixing_figure(rounds, book, state.weights.b), CAPTION)
        shapes = state.mu.shapes()
        points = {name: tensor.to(torch.float32, copy=True) for name, tensor in state.points.floats().items()}
        return FixedPosterior(Stored.of(shapes, state.weights, self.predict), points, self.facts)

    def _cluster(self, index: int) -> None:
        """One round: clustering, with validations of the means around it."""
        config, state, weights = self.config, self.state, self.state.weights
        before = self._evaluate_mean()
        if config.recluster_all:
            weights.fixed.zero_()
        negative = int((weights.sigma.lt(0) & ~weights.fixed).count_nonzero())
        share = negative / max(1, len(weights) - int(weights.fixed.count_nonzero()))
        target = fixed_target(config.fractions[index], len(weights))
        pick_of = torch.empty(len(weights), dtype=torch.int32, device=weights.mu.device)
        done = fix_round(weights, target, config.deltas()[index], config, pick_of=pick_of, sizes=state.sizes)
        free = weights.sigma[~weights.fixed]
        one = Round(
            p=config.fractions[index],
            left=done.count,
            picks=done.picks,
            phases=done.phases,
            seconds=done.seconds,
            fixed=len(weights) - len(free),
            entropy_bits=entropy_bits(value_counts(weights)[1]),
            median_sigma=float(free.median()) if len(free) else None,
            negative_sigma=share,
            before=before,
            after=self._evaluate_mean(),
        )
        counts = omega_counts(pick_of, done.picks, list(state.sizes.values()))
        self.record.add(one, counts, len(state.sizes))
        self.ctx.log(event="round", round=index, **one.values())

    def _choose(self) -> Predict:
        """Means or draws, as asked for or by validation; both validations go to the facts."""
        if self.problem.val is None:
            if self.config.predict == "auto":
                log.warning("There are no validation data to choose by: predictions are made with the means.")
            return "draws" if self.config.predict == "draws" else "mean"
        mean = self._evaluate([self.state.mean()], self.problem.val)
        draws = self._evaluate(self._draws(), self.problem.val)
        self.facts |= {**evaluation_columns("mean", mean), **evaluation_columns("draws", draws)}
        if self.config.predict != "auto":
            return self.config.predict
        return "draws" if draws.nll < mean.nll else "mean"

    def _draws(self) -> Iterator[Weights]:
        generator = torch.Generator(self.ctx.device).manual_seed(self.ctx.seed_for("validation"))
        sample = Flat.like(self.state.mu)
        return (self.state.draw(sample, generator) for _ in range(self.config.val_draws))

    def _evaluate(self, draws: Iterable[Weights], split: Split) -> Evaluation:
        return evaluate_draws(self.network, draws, split, scan_batch(self.ctx))

    def _evaluate_mean(self) -> Evaluation | None:
        return None if self.problem.val is None else self._evaluate([self.state.mean()], self.problem.val)

    def _learner(self) -> FixingLearner:
        names = self.state.mu.views
        unpushed = set() if self.config.reg_bias else set(layer_biases(self.network))
        return FixingLearner(
            self.network,
            self.state,
            self.config,
            self.rate,
            self.ctx.generator("noise", self.ctx.device),
            learned=self.state.mask(name for name in names if self.network.get_parameter(name).requires_grad),
            pushed=self.state.mask(name for name in names if name not in unpushed),
        )

    def _rate(self) -> float:
        if self.config.lr != "auto":
            return self.config.lr
        full_round = self.problem.epochs(self.config.rest_epochs) * self.problem.train.steps(self.config.batch_size)
        return FAST_RATE if full_round * (1 + self.config.alternate) < LONG_ROUND else SLOW_RATE

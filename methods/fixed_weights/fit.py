"""The stages of a fit: training and rounds of clustering in turns, new running statistics, the posterior."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from benchmark import Fact, Problem, RunContext, Weights, weights_of
from methods.finetuning.loop import require_finite_points
from methods.finetuning.modes import only_norms_training, resolve_bn
from methods.finetuning.probe import keep_used
from methods.finetuning.search import scan_batch
from methods.finetuning.select import Selection
from methods.finetuning.statistics import average_statistics
from methods.finetuning.step import Learner, Step, launchers_micro_batch
from methods.fixed_weights.codebook import Codebook, value_counts
from methods.fixed_weights.encoding import Predict, Stored
from methods.fixed_weights.figure import fixing_figure
from methods.fixed_weights.fixing import Fixing
from methods.fixed_weights.picks import RoundRecord
from methods.fixed_weights.posterior import FixedPosterior
from methods.fixed_weights.record import Record, Round, evaluation_columns
from methods.fixed_weights.report import (
    entropy_bits,
    layer_records,
    omega_counts,
    round_facts,
    size_facts,
    value_facts,
)
from methods.fixed_weights.state import FixingState
from methods.map.evaluation import Evaluation, evaluate_draws
from methods.precision import Precision
from methods.training import train

Fix = Callable[[Tensor], RoundRecord]
"""Fixes free weights of the state, in place. Writes to (N,) int32 the position in the picks of each weight fixed, -1
for the others."""


class FixingFit:
    """What the stages of one fit work on, whatever method chooses the values.

    state: the weights. record: part of checkpoints. facts: for the row. bn: how normalisation really runs.
    """

    def __init__(
        self,
        problem: Problem,
        ctx: RunContext,
        *,
        scope: Selection,
        state_of: Callable[[Selection], FixingState],
        batch_size: int,
    ) -> None:
        """scope: what is fixed, as `bayesian`. state_of: builds the state, of the scope whose other parameters are only
        trained where the network uses them. batch_size: examples per step.

        Raises:
            ConfigError: the network ignores replaced weights.
        """
        self.problem, self.ctx, self.network = problem, ctx, problem.network
        used = keep_used(self.network, scope, problem.train, ctx.seed_for("probe"))
        frozen = tuple(name for name in used.frozen if name not in scope.bayesian)  # what is unused is fixed, too
        self.state = state_of(Selection(scope.bayesian, used.trained, frozen))
        self._batch_size = batch_size
        self.bn = resolve_bn(self.network, "train", len(problem.train) // problem.train.steps(batch_size))
        self.record = Record()
        self.facts: dict[str, Fact] = {"bn": self.bn}

    def learned(self) -> Tensor:
        """(N,) bool, the weights that are trained at all: those of parameters that require gradients."""
        return self.state.mask(name for name in self.state.mu.views if self.network.get_parameter(name).requires_grad)

    def train(
        self,
        learner: Learner,
        lengths: Sequence[int],
        *,
        after: Callable[[int], None],
        before: Callable[[int], None] = lambda number: None,
    ) -> None:
        """All passes over the data with what follows them, from a checkpoint if there is one.

        lengths: steps of every pass, 0 for a pause. before, after: called around each pass with its number; `before`
        also where a run goes on in its middle.

        Raises:
            Diverged: the loss stays non-finite.
        """
        if self.ctx.checkpoint.load() is None and self.problem.val is not None:
            self.record.facts |= evaluation_columns("base", self.evaluate_mean())
            self.ctx.log(event="start", **self.record.facts)
        micro_batch = launchers_micro_batch(self.ctx, self._batch_size, harmless=self.bn != "train")
        step = Step(learner, micro_batch=micro_batch, precision=Precision("fp32", self.ctx.device))

        def before_epoch(number: int) -> None:
            before(number)
            self.record.training.start()

        def after_epoch(number: int, loss: float) -> None:
            step.look()
            self.record.training.stop()
            if lengths[number]:
                self.ctx.log(epoch=number + 1, train_loss=loss, skipped_steps=step.skipped)
            after(number)

        with only_norms_training(self.network, self.bn == "train"):
            train(
                self.problem,
                self.ctx,
                epochs=lengths,
                batch_size=self._batch_size,
                step=step,
                stateful={"step": step, "record": self.record},
                before_epoch=before_epoch,
                after_epoch=after_epoch,
            )
        self.facts |= {"skipped_steps": step.skipped, "seconds_train": self.record.training.seconds}

    def cluster(self, index: int, p: float, fix: Fix, *, anew: bool) -> RoundRecord:
        """Round `index`, with validations of the means around it; goes to the record and the history.

        p: share of the weights that shall be fixed after it. anew: all weights are free before.
        """
        weights, before = self.state.weights, self.evaluate_mean()
        if anew:
            weights.fixed.zero_()
        negative = _share_of_negative_sigma(weights)
        pick_of = torch.empty(len(weights), dtype=torch.int32, device=weights.mu.device)
        done = fix(pick_of)
        one = Round(
            p=p,
            left=done.count,
            picks=done.picks,
            phases=done.phases,
            seconds=done.seconds,
            fixed=int(weights.fixed.count_nonzero()),
            entropy_bits=entropy_bits(value_counts(weights)[1]),
            median_sigma=_median_free_sigma(weights),
            negative_sigma=negative,
            before=before,
            after=self.evaluate_mean(),
        )
        counts = omega_counts(pick_of, done.picks, list(self.state.sizes.values()))
        self.record.add(one, counts, len(self.state.sizes))
        self.ctx.log(event="round", round=index, **one.values())
        return done

    def reestimate(self, batches: int, advice: str) -> None:
        """Average running statistics anew under the means, over `batches` batches, at most an epoch; 0: leave them.

        Raises:
            Diverged: a point-valued weight or a running statistic is not finite. advice: what to change then.
        """
        if self.bn == "train" and batches > 0:
            average_statistics(
                self.network,
                self.state.points,
                lambda generator: self.state.mu.views,
                self.problem.train,
                self._batch_size,
                self.ctx.seed_for("reestimate"),
                min(batches, self.problem.train.steps(self._batch_size)),
            )
        require_finite_points(self.state.points, advice)

    def evaluate(self, draws: Iterable[Weights]) -> Evaluation | None:
        """Of the mean probabilities over the draws, on validation data; None without."""
        if self.problem.val is None:
            return None
        return evaluate_draws(self.network, draws, self.problem.val, scan_batch(self.ctx))

    def evaluate_mean(self) -> Evaluation | None:
        """Of the means."""
        return self.evaluate([self.state.mean()])

    def posterior(self, predict: Predict, caption: str) -> FixedPosterior:
        """The result, with its facts; logs a record per tensor and keeps the figure, under this caption."""
        state, rounds = self.state, self.record.rounds
        book = Codebook.of_values(state.weights)
        sizes = size_facts(state)
        self.facts |= {**self.record.facts, **sizes, **round_facts(rounds)}
        self.facts |= value_facts(book.codes, book.counts(), sizes["rest"])
        for values in layer_records(state, book, weights_of(self.network), self.record):
            self.ctx.log(**values)
        self.ctx.figure("fixing", fixing_figure(rounds, book, state.weights.b), caption)
        points = {name: tensor.to(torch.float32, copy=True) for name, tensor in state.points.floats().items()}
        return FixedPosterior(Stored.of(state.mu.shapes(), state.weights, predict), points, self.facts)


def _share_of_negative_sigma(weights: Fixing) -> float | None:
    """Of the free weights; None of points."""
    if weights.sigma is None:
        return None
    negative = int((weights.sigma.lt(0) & ~weights.fixed).count_nonzero())
    return negative / max(1, len(weights) - int(weights.fixed.count_nonzero()))


def _median_free_sigma(weights: Fixing) -> float | None:
    """None of points, and where no weight is free."""
    if weights.sigma is None or bool(weights.fixed.all()):
        return None
    return float(weights.sigma[~weights.fixed].median())

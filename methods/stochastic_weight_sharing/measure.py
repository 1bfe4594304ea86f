"""How good the prediction is, before, during and after a fit: always on the same data, under the same noise."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn.functional import cross_entropy

from benchmark import Fact, Posterior, Problem, RunContext, Split, Weights, evaluating, forward, weights_of
from methods.finetuning.search import averaged_label_log_probs, scan_batch
from methods.stochastic_weight_sharing.sampler import Sampling
from methods.stochastic_weight_sharing.state import SharedState

DRAWS = 8


class Measure:
    """NLLs in nats of the averaged prediction of 8 draws, on at most 2,048 examples."""

    def __init__(self, problem: Problem, ctx: RunContext, sampling: Sampling) -> None:
        self._problem, self._ctx, self._sampling = problem, ctx, sampling

    def before(self, source: Posterior | None) -> dict[str, Fact]:
        """val_nll_base, and val_nll_stage1 of the posterior that is shared; nothing without validation data."""
        val = self._problem.val
        if val is None:
            return {}
        found: dict[str, Fact] = {"val_nll_base": self._nll([weights_of(self._problem.network)], val)}
        if source is not None:
            generator = torch.Generator().manual_seed(self._ctx.seed_for("validation"))
            found["val_nll_stage1"] = self._nll(source.draws(DRAWS, generator), val)
        return found

    def validation(self, name: str, state: SharedState) -> dict[str, Fact]:
        """The fact `name`, the NLL of `state`; nothing without validation data."""
        return {} if self._problem.val is None else {name: self.nll(state, self._problem.val)}

    def nll(self, state: SharedState, split: Split) -> float:
        """Of `state` as it stands."""
        draw, generator = state.sampler(self._sampling).drawing(), self._noise("validation")
        rest = state.points.tensors()
        return self._nll(({**rest, **draw(generator)} for _ in range(DRAWS)), split)

    @torch.no_grad()
    def training_loss(self, state: SharedState) -> float:
        """Mean cross-entropy in nats over the training data in eval mode, each batch under a draw of its own."""
        draw, generator = state.sampler(self._sampling).drawing(), self._noise("elbo")
        rest, train = state.points.tensors(), self._problem.train
        total = torch.zeros((), dtype=torch.float64, device=train.labels.device)
        with evaluating(self._problem.network):
            for inputs, labels in train.batches(scan_batch(self._ctx)):
                logits = forward(self._problem.network, {**rest, **draw(generator)}, inputs)
                total += cross_entropy(logits.double(), labels, reduction="sum")
        return float(total) / len(train)

    def _nll(self, draws: Iterable[Weights], split: Split) -> float:
        one_by_one = ([weights] for weights in draws)
        (scores,) = averaged_label_log_probs(self._problem.network, one_by_one, split, scan_batch(self._ctx))
        return -float(scores.mean())

    def _noise(self, purpose: str) -> torch.Generator:
        return torch.Generator(self._ctx.device).manual_seed(self._ctx.seed_for(purpose))

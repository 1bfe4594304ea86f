"""The stages that every fit of Gaussians goes through, however they are trained: search, report, rescale, result."""

from __future__ import annotations

import logging
import math
from typing import Literal

import torch
from torch import Tensor

from benchmark import Fact, Problem, RunContext, Split, require_finite
from methods.finetuning.flat import Flat
from methods.finetuning.points import floating
from methods.finetuning.search import scan_batch
from methods.finetuning.select import Selection
from methods.mean_field.estimators.shared import perturb
from methods.mean_field.posterior import Encoding, GaussianPosterior
from methods.mean_field.prior import Prior
from methods.mean_field.report import (
    finest_relative_sigma,
    kl_facts,
    marks,
    psi_facts,
    selection_facts,
    selection_lists,
)
from methods.mean_field.search import Around, deviates_of, label_log_probs, rescale_sigma
from methods.mean_field.sigma import Initial
from methods.mean_field.starting import StartingSigma
from methods.mean_field.state import MeanFieldState
from methods.precision import Precision

log = logging.getLogger("bnnbench")

ROUNDED_AWAY = 0.004
"""sigma / |w| below which bf16, of 8 significant bits, loses the noise."""


class GaussianFit:
    """One fit, from the base network to the posterior. A method adds the training, which changes `state`.

    search_on, rescale_on: validation data for the choice of a width before and after the training; None: no choice.
    `facts` holds what the posterior tells about the fit.
    """

    def __init__(
        self,
        problem: Problem,
        ctx: RunContext,
        selection: Selection,
        prior: Prior,
        start: StartingSigma,
        *,
        search_on: Split | None,
        rescale_on: Split | None,
    ) -> None:
        self.problem, self.ctx, self.network = problem, ctx, problem.network
        self.selection, self.prior, self.start = selection, prior, start
        self._search_on, self._rescale_on = search_on, rescale_on
        self.state = MeanFieldState(self.network, selection)
        self.facts: dict[str, Fact] = selection_facts(self.network, selection)

    def search(self) -> None:
        """Log the selection; choose the width of the start, where validation data are to choose it."""
        self.ctx.log(event="selection", **selection_lists(self.selection))
        if self._search_on:
            self.ctx.log(event="sigma_search", **self.start.search(self._around("sigma_search"), self._search_on))

    def began(self) -> Initial:
        """psi before the first step, by the rule; the same after the training as before it."""
        own = {name: floating(self.network.get_parameter(name).detach()) for name in self.selection.bayesian}
        return self.start.initial(own)

    def warn_of_rounding(self, precision: Precision) -> None:
        """Tell the user when half precision would lose the noise that psi asks for."""
        if precision.kind == "bf16" and finest_relative_sigma(self.state.mu, self.state.psi) < ROUNDED_AWAY:
            log.warning("Half of the weights have sigma / |w| below %g: bf16 rounds their noise away.", ROUNDED_AWAY)

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """One sample of the Bayesian weights, by a generator on their device."""
        sample = Flat.like(self.state.mu)
        perturb(sample.flat.normal_(generator=generator), self.state.mu.flat, self.state.psi.flat)
        return sample.views

    def validate(self, split: Split) -> float:
        """Mean NLL in nats of the averaged prediction of 8 draws as the fit stands: the same noise at every call."""
        around = self._around("keep")
        (scores,) = label_log_probs(around, deviates_of(self.state.psi.flat), [[1.0] * len(around.mean.views)], split)
        return -float(scores.mean())

    def require_finite(self, advice: str) -> None:
        """Raise Diverged when a non-finite number got into a Gaussian."""
        total = float(self.state.mu.flat.sum() + self.state.psi.flat.sum())
        require_finite(total, "the sum of the Gaussians' parameters", advice)

    def report_psi(self, began: Initial) -> None:
        """Facts of where psi started and ended, before any rescaling."""
        self.facts |= psi_facts(began, self.state.psi)

    def rescale(self) -> None:
        """One common factor on sigma, where validation data ask for it."""
        factor = 1.0
        if self._rescale_on:
            factor = rescale_sigma(self._around("sigma_rescale"), self.state.psi.flat, self._rescale_on)
        self.state.psi.flat.add_(math.log(factor))
        self.facts["sigma_rescale"] = factor

    def posterior(self, encoding: Encoding) -> GaussianPosterior:
        """The result, with its facts."""
        state = self.state
        self.facts |= kl_facts(self.prior, state.mu, state.psi)
        self.facts["marks"] = marks(self.facts)
        return GaussianPosterior(
            state.mu.views, state.psi.views, state.points.floats(), encoding=encoding, facts=self.facts
        )

    def _around(self, purpose: Literal["sigma_search", "sigma_rescale", "keep"]) -> Around:
        fixed, seed = self.state.points.tensors(), self.ctx.seed_for(purpose)
        return Around(self.network, self.state.mu, fixed, seed, scan_batch(self.ctx))

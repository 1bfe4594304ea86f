"""`mean_field`, from the base network to the posterior: select, search sigma, train, rescale."""

from __future__ import annotations

import logging
import math
from typing import Literal

import torch
from torch import Tensor

from benchmark import ConfigError, Fact, Problem, RunContext, Split, require_finite
from methods.finetuning.base_run import Recipe, decaying, recipe_for
from methods.finetuning.descent import PointDescent, optimiser_for
from methods.finetuning.flat import Flat
from methods.finetuning.loop import ADVICE, Schedule, fine_tune, rate_of, recipe_facts
from methods.finetuning.probe import keep_used
from methods.finetuning.select import Selection, select
from methods.mean_field.config import MeanFieldConfig
from methods.mean_field.estimators.choose import choose_estimator
from methods.mean_field.estimators.shared import perturb
from methods.mean_field.learner import Descent, MeanFieldLearner
from methods.mean_field.posterior import GaussianPosterior
from methods.mean_field.prior import Prior, log_sd_limits
from methods.mean_field.rates import log_sd_rates, travel_bound
from methods.mean_field.report import (
    clamped_fraction,
    finest_relative_sigma,
    kl_facts,
    marks,
    psi_facts,
    selection_facts,
    selection_lists,
    tempered,
)
from methods.mean_field.search import Around, rescale_sigma
from methods.mean_field.starting import StartingSigma
from methods.mean_field.state import MeanFieldState
from methods.optimisers import Adam, Group, Optimiser, Sgd

log = logging.getLogger("bnnbench")

TOO_MANY_CLAMPED = 0.2
SCAN_BATCH = 256
ROUNDED_AWAY = 0.004
"""sigma / |w| below which bf16, of 8 significant bits, loses the noise."""


def fit_mean_field(problem: Problem, ctx: RunContext, config: MeanFieldConfig) -> GaussianPosterior:
    """The fitted posterior; the problem's network is left as it was.

    Raises:
        ConfigError: no base run; nothing to select, or the network ignores replaced weights; a search or a rescaling
            without validation data; no room for the estimator.
        Diverged: the loss stays non-finite, or a weight ends so.
    """
    fit = _Fit(problem, ctx, config)
    fit.start_sigma()
    if config.epochs > 0:
        fit.train()
    fit.report_psi()
    fit.rescale()
    return fit.posterior()


class _Fit:
    """What the stages of one fit share."""

    def __init__(self, problem: Problem, ctx: RunContext, config: MeanFieldConfig) -> None:
        self.problem, self.ctx, self.config, self.network = problem, ctx, config, problem.network
        self.search_on = validation(problem, "sigma_search") if config.sigma_search else None
        self.rescale_on = validation(problem, "sigma_rescale") if config.sigma_rescale else None
        self.recipe = recipe_for(config, ctx)
        self.selection = _selection(problem, ctx, config)
        self.prior = _prior(problem, config, self.recipe)
        self.state = MeanFieldState(self.network, self.selection)
        self.start = StartingSigma(config.sigma_init, self.prior.log_sd, ctx.seed_for("sigma_init"))
        self.facts: dict[str, Fact] = {
            "estimator": config.estimator,
            **recipe_facts(self.recipe),
            **selection_facts(self.network, self.selection),
            **tempered(config.kl_temperature, self.prior.n_data, problem.n_train),
        }

    def start_sigma(self) -> None:
        """psi before the first step; nothing to do where a checkpoint holds it."""
        if self.config.epochs > 0 and self.ctx.checkpoint.load() is not None:
            return
        self.ctx.log(event="selection", **selection_lists(self.selection))
        if self.search_on:
            self.ctx.log(event="sigma_search", **self.start.search(self._around("sigma_search"), self.search_on))
        self.start.initial(self.state.mu.views).write_to(self.state.psi)

    def train(self) -> None:
        """The fine-tuning itself."""
        config, state, prior = self.config, self.state, self.prior
        schedule = Schedule.of(self.problem, self.ctx, config, divisible=config.estimator == "shared")
        if schedule.precision.kind == "bf16" and finest_relative_sigma(state.mu, state.psi) < ROUNDED_AWAY:
            log.warning("Half of the weights have sigma / |w| below %g: bf16 rounds their noise away.", ROUNDED_AWAY)
        rate = log_sd_rates(config, schedule.steps)
        learner = self._learner(schedule)

        def measures() -> dict[str, float]:
            clamped = clamped_fraction(state.psi.flat, log_sd_limits(prior))
            return {**kl_facts(prior, state.mu, state.psi), "clamped": clamped}

        self.facts |= fine_tune(
            self.problem,
            self.ctx,
            config,
            schedule,
            learner,
            sampler=lambda generator: _draw(state, generator),
            remembered={"sigma": self.start},
            measures=measures,
        )
        fallbacks = learner.estimator.fallbacks()
        if fallbacks:
            log.warning("%s has no formula for %s: one sample per step there.", config.estimator, sorted(fallbacks))
        self.facts["fallback_ops"] = " ".join(sorted(fallbacks))
        self.facts["psi_travel_bound"] = travel_bound(config, rate, schedule.steps, prior.n_data)
        learner.release()
        require_finite(
            float(state.mu.flat.sum() + state.psi.flat.sum()), "the sum of the Gaussians' parameters", ADVICE
        )

    def _learner(self, schedule: Schedule) -> MeanFieldLearner:
        config, state, recipe, prior = self.config, self.state, self.recipe, self.prior
        examples = min(schedule.micro_batch or config.batch_size, config.batch_size, len(self.problem.train))
        estimator = choose_estimator(config.estimator, state, self.ctx.generator("noise", self.ctx.device), examples)
        mean_rate = rate_of(config, recipe, schedule.steps)
        log_sd_rate = log_sd_rates(config, schedule.steps)

        def descend(parameters: list[Tensor]) -> Optimiser:
            return optimiser_for(recipe.optimiser, parameters, nesterov=config.nesterov)

        return MeanFieldLearner(
            self.network,
            state,
            prior,
            estimator,
            PointDescent(
                state.points,
                descend(list(state.points.trained.values())),
                mean_rate,
                decaying(self.network),
                prior.lam,
            ),
            Descent(descend(list(state.mu.views.values())), mean_rate),
            None if log_sd_rate is None else Descent(_psi_optimiser(config, state.psi), log_sd_rate),
            clamp=config.clamp,
            clip_norm=config.clip_norm,
            extra_decay=config.extra_mu_decay,
        )

    def report_psi(self) -> None:
        """Facts of where psi started and ended, before any rescaling."""
        began = {name: self.network.get_parameter(name).detach() for name in self.selection.bayesian}
        self.facts |= self.start.facts() | psi_facts(self.start.initial(began), self.state.psi)
        self.facts["clamped"] = 0.0
        if self.config.clamp and self.config.epochs > 0:
            self.facts["clamped"] = clamped = clamped_fraction(self.state.psi.flat, log_sd_limits(self.prior))
            if clamped > TOO_MANY_CLAMPED:
                log.warning(
                    "%.0f %% of psi is clamped: the prior is too tight (l2), or kl_temperature too small.",
                    100 * clamped,
                )

    def rescale(self) -> None:
        """One common factor on sigma, where validation data ask for it."""
        factor = 1.0
        if self.rescale_on:
            factor = rescale_sigma(self._around("sigma_rescale"), self.state.psi.flat, self.rescale_on)
        self.state.psi.flat.add_(math.log(factor))
        self.facts["sigma_rescale"] = factor

    def posterior(self) -> GaussianPosterior:
        """The result, with its facts."""
        state = self.state
        self.facts |= kl_facts(self.prior, state.mu, state.psi)
        self.facts["marks"] = marks(self.facts)
        return GaussianPosterior(
            state.mu.views, state.psi.views, state.points.floats(), encoding=self.config.encoding, facts=self.facts
        )

    def _around(self, purpose: Literal["sigma_search", "sigma_rescale"]) -> Around:
        size = min(SCAN_BATCH, self.ctx.micro_batch or SCAN_BATCH)
        return Around(self.network, self.state.mu, self.state.points.tensors(), self.ctx.seed_for(purpose), size)


def _selection(problem: Problem, ctx: RunContext, config: MeanFieldConfig) -> Selection:
    selection = select(problem.network, config.select, train_rest=config.train_rest)
    return keep_used(problem.network, selection, problem.train, ctx.seed_for("probe"))


def _prior(problem: Problem, config: MeanFieldConfig, recipe: Recipe) -> Prior:
    """The prior of the settings; its pretrained mean is the network's own parameters, not copied."""
    base = {name: parameter.detach() for name, parameter in problem.network.named_parameters()}
    return Prior(
        recipe.l2,
        problem.n_train if config.n_data == "auto" else config.n_data,
        config.kl_temperature,
        base if config.prior_mean == "pretrained" else None,
    )


def _psi_optimiser(config: MeanFieldConfig, psi: Flat) -> Optimiser:
    # eps far below the gradients of psi, which are of order 1/N.
    if config.optim_psi == "adam":
        return Adam([Group([psi.flat])], eps=1e-12)
    return Sgd([Group([psi.flat])], nesterov=config.nesterov)


def _draw(state: MeanFieldState, generator: torch.Generator) -> dict[str, Tensor]:
    sample = Flat.like(state.mu)
    perturb(sample.flat.normal_(generator=generator), state.mu.flat, state.psi.flat)
    return sample.views


def validation(problem: Problem, setting: str) -> Split:
    """The validation split, or a ConfigError that says how to get one."""
    if problem.val is None:
        value = " and give sigma_init.value" if setting == "sigma_search" else ""
        raise ConfigError(
            f"{setting} compares widths on validation data, and this task has no validation split. "
            f"Give the task one in its settings, or set {setting}: false{value}."
        )
    return problem.val

"""`mean_field`, from the base network to the posterior: select, search sigma, train, rescale."""

from __future__ import annotations

import logging
import math
from typing import Literal

from benchmark import ConfigError, Fact, Problem, RunContext, Split
from methods.mean_field.base_run import Recipe, recipe_for
from methods.mean_field.config import MeanFieldConfig
from methods.mean_field.posterior import GaussianPosterior
from methods.mean_field.prior import Prior
from methods.mean_field.probe import keep_used
from methods.mean_field.report import (
    clamped_fraction,
    kl_facts,
    psi_facts,
    selection_facts,
    selection_lists,
    tempered,
)
from methods.mean_field.search import Around, rescale_sigma
from methods.mean_field.select import select
from methods.mean_field.starting import StartingSigma
from methods.mean_field.state import MeanFieldState
from methods.mean_field.step import log_sd_limits
from methods.mean_field.train import fine_tune, recipe_facts

log = logging.getLogger("bnnbench")

TOO_MANY_CLAMPED = 0.2
SCAN_BATCH = 256


def fit_mean_field(problem: Problem, ctx: RunContext, config: MeanFieldConfig) -> GaussianPosterior:
    """The fitted posterior; the problem's network is left as it was.

    Raises:
        ConfigError: no base run; nothing to select, or the network ignores replaced weights; a search or a rescaling
            without validation data.
        Diverged: the loss stays non-finite, or a weight ends so.
    """
    network = problem.network
    search_on = _validation(problem, "sigma_search") if config.sigma_search else None
    rescale_on = _validation(problem, "sigma_rescale") if config.sigma_rescale else None
    recipe = recipe_for(config, ctx)
    selection = select(network, config.select, train_rest=config.train_rest)
    selection = keep_used(network, selection, problem.train, ctx.seed_for("probe"))
    prior = _prior(problem, config, recipe)
    state = MeanFieldState(network, selection)

    def around(purpose: Literal["sigma_search", "sigma_rescale"]) -> Around:
        size = min(SCAN_BATCH, ctx.micro_batch or SCAN_BATCH)
        return Around(network, state.mu, {**state.points(), **state.buffers}, ctx.seed_for(purpose), size)

    start = StartingSigma(config.sigma_init, prior.log_sd, ctx.seed_for("sigma_init"))
    if config.epochs == 0 or ctx.checkpoint.load() is None:
        ctx.log(event="selection", **selection_lists(selection))
        if search_on:
            ctx.log(event="sigma_search", **start.search(around("sigma_search"), search_on))
        start.initial(state.mu.views).write_to(state.psi)
    facts: dict[str, Fact] = {
        "estimator": "shared",
        **recipe_facts(recipe),
        **selection_facts(network, selection),
        **tempered(config.kl_temperature, prior.n_data, problem.n_train),
    }
    if config.epochs > 0:
        facts |= fine_tune(
            problem,
            ctx,
            config,
            recipe,
            state,
            prior,
            travel=config.travel,
            clamp=config.clamp,
            remembered={"sigma": start},
            measures=lambda: {
                **kl_facts(prior, state.mu, state.psi),
                "clamped": clamped_fraction(state.psi.flat, log_sd_limits(prior)),
            },
        )
    began = {name: network.get_parameter(name).detach() for name in selection.bayesian}
    facts |= start.facts() | psi_facts(start.initial(began), state.psi)
    facts["clamped"] = _clamped(state, prior) if config.clamp and config.epochs > 0 else 0.0
    factor = rescale_sigma(around("sigma_rescale"), state.psi.flat, rescale_on) if rescale_on else 1.0
    state.psi.flat.add_(math.log(factor))
    facts["sigma_rescale"] = factor
    facts |= kl_facts(prior, state.mu, state.psi)
    return GaussianPosterior(state.mu.views, state.psi.views, state.points(), encoding=config.encoding, facts=facts)


def _prior(problem: Problem, config: MeanFieldConfig, recipe: Recipe) -> Prior:
    """The prior of the settings; its pretrained mean is the network's own parameters, not copied."""
    base = {name: parameter.detach() for name, parameter in problem.network.named_parameters()}
    return Prior(
        recipe.l2,
        problem.n_train if config.n_data == "auto" else config.n_data,
        config.kl_temperature,
        base if config.prior_mean == "pretrained" else None,
    )


def _clamped(state: MeanFieldState, prior: Prior) -> float:
    clamped = clamped_fraction(state.psi.flat, log_sd_limits(prior))
    if clamped > TOO_MANY_CLAMPED:
        log.warning(
            "%.0f %% of psi is clamped: the prior is too tight (l2), or kl_temperature too small.", 100 * clamped
        )
    return clamped


def _validation(problem: Problem, setting: str) -> Split:
    """The validation split, or a ConfigError that says how to get one."""
    if problem.val is None:
        value = " and give sigma_init.value" if setting == "sigma_search" else ""
        raise ConfigError(
            f"{setting} compares widths on validation data, and this task has no validation split. "
            f"Give the task one in its settings, or set {setting}: false{value}."
        )
    return problem.val

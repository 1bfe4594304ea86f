"""`mean_field`, from the base network to the posterior: select, search sigma, train, rescale."""

from __future__ import annotations

import logging

from torch import Tensor

from benchmark import Problem, RunContext
from methods.finetuning.base_run import Recipe, decaying, recipe_for
from methods.finetuning.descent import Descent, PointDescent, optimiser_for
from methods.finetuning.flat import Flat
from methods.finetuning.keep import keeper
from methods.finetuning.loop import Schedule, fine_tune, rate_of, recipe_facts
from methods.finetuning.probe import keep_used
from methods.finetuning.search import validation
from methods.finetuning.select import Selection, select
from methods.mean_field.config import MeanFieldConfig
from methods.mean_field.estimators.choose import choose_estimator
from methods.mean_field.learner import MeanFieldLearner
from methods.mean_field.posterior import GaussianPosterior
from methods.mean_field.prior import Prior, kl_weight, layer_scales, log_sd_limits
from methods.mean_field.rates import log_sd_rates, ramp, travel_bound
from methods.mean_field.report import clamped_fraction, kl_facts, tempered
from methods.mean_field.stages import GaussianFit
from methods.mean_field.starting import StartingSigma
from methods.optimisers import Adam, Group, Optimiser, Sgd

log = logging.getLogger("bnnbench")

TOO_MANY_CLAMPED = 0.2


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
    fit.report()
    fit.rescale()
    return fit.posterior(config.encoding)


class _Fit(GaussianFit):
    """The stages, with the training of `mean_field`."""

    def __init__(self, problem: Problem, ctx: RunContext, config: MeanFieldConfig) -> None:
        search_on = validation(problem, "sigma_search", "sigma_init.value") if config.sigma_search else None
        rescale_on = validation(problem, "sigma_rescale") if config.sigma_rescale else None
        self.config, self.recipe = config, recipe_for(config, ctx)
        selection = _selection(problem, ctx, config)
        prior = _prior(problem, config, self.recipe, selection)
        start = StartingSigma(config.sigma_init, prior.log_sd, ctx.seed_for("sigma_init"))
        super().__init__(problem, ctx, selection, prior, start, search_on=search_on, rescale_on=rescale_on)
        self.facts |= {
            "estimator": config.estimator,
            **recipe_facts(self.recipe),
            **tempered(prior.temperature, prior.n_data, problem.n_train),
        }

    def start_sigma(self) -> None:
        """psi before the first step; nothing to do where a checkpoint holds it."""
        if self.config.epochs > 0 and self.ctx.checkpoint.load() is not None:
            return
        self.search()
        self.began().write_to(self.state.psi)

    def train(self) -> None:
        """The fine-tuning itself."""
        config, state, prior = self.config, self.state, self.prior
        schedule = Schedule.of(self.problem, self.ctx, config, divisible=config.estimator == "shared")
        self.warn_of_rounding(schedule.precision)
        rate = log_sd_rates(config, schedule.steps)
        learner = self._learner(schedule)
        fallbacks = learner.estimator.fallbacks()

        def measures() -> dict[str, float]:
            clamped = clamped_fraction(state.psi.flat, log_sd_limits(prior))
            return {**kl_facts(prior, state.mu, state.psi), "clamped": clamped}

        self.facts |= fine_tune(
            self.problem,
            self.ctx,
            config,
            schedule,
            learner,
            sampler=self.draw,
            remembered={"sigma": self.start, "fallbacks": fallbacks},
            measures=measures,
            keep=keeper(self.problem, config.keep, state, self.validate),
        )
        if fallbacks:
            log.warning("%s has no formula for %s: one sample per step there.", config.estimator, sorted(fallbacks))
        self.facts["fallback_ops"] = " ".join(sorted(fallbacks))
        self.facts["psi_travel_bound"] = travel_bound(config, rate, schedule.steps, prior.n_data)
        learner.release()
        self.require_finite(learner.advice)

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
            ramp=ramp(config.kl_ramp, schedule.steps),
        )

    def report(self) -> None:
        """Facts of psi before any rescaling; a warning where the clamp decides it."""
        self.facts |= self.start.facts()
        self.report_psi(self.began())
        self.facts["clamped"] = 0.0
        if self.config.clamp and self.config.epochs > 0:
            self.facts["clamped"] = clamped = clamped_fraction(self.state.psi.flat, log_sd_limits(self.prior))
            if clamped > TOO_MANY_CLAMPED:
                log.warning(
                    "%.0f %% of psi is clamped: the prior is too tight (l2), or kl_temperature too small.",
                    100 * clamped,
                )


def _selection(problem: Problem, ctx: RunContext, config: MeanFieldConfig) -> Selection:
    selection = select(problem.network, config.select, train_rest=config.train_rest)
    return keep_used(problem.network, selection, problem.train, ctx.seed_for("probe"))


def _prior(problem: Problem, config: MeanFieldConfig, recipe: Recipe, selection: Selection) -> Prior:
    """The prior of the settings; its pretrained mean is the network's own parameters, not copied."""
    base = {name: parameter.detach() for name, parameter in problem.network.named_parameters()}
    bayesian = {name: base[name] for name in selection.bayesian}
    n_data = problem.n_train if config.n_data == "auto" else config.n_data
    return Prior(
        recipe.l2,
        n_data,
        kl_weight(config.kl_temperature, n_data, sum(tensor.numel() for tensor in bayesian.values())),
        base if config.prior_mean == "pretrained" else None,
        layer_scales(bayesian, recipe.l2, n_data) if config.prior_scale == "layer_std" else None,
    )


def _psi_optimiser(config: MeanFieldConfig, psi: Flat) -> Optimiser:
    # eps far below the gradients of psi, which are of order 1/N.
    if config.optim_psi == "adam":
        return Adam([Group([psi.flat])], eps=1e-12)
    return Sgd([Group([psi.flat])], nesterov=config.nesterov)

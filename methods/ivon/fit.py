"""`ivon`, from the base network (or an initialisation) to the posterior: select, search sigma, train, rescale."""

from __future__ import annotations

import logging
from dataclasses import replace

from benchmark import ConfigError, Fact, Problem, RunContext
from methods.finetuning.base_run import Recipe, decaying, mean_rate, recipe_for
from methods.finetuning.descent import PointDescent, optimiser_for
from methods.finetuning.loop import Schedule, fine_tune, rate_of
from methods.finetuning.probe import keep_used
from methods.finetuning.search import validation
from methods.finetuning.select import select
from methods.ivon.config import IvonConfig
from methods.ivon.curvature import decay_for, starting_curvatures, starting_log_sd
from methods.ivon.learner import IvonLearner
from methods.ivon.package import ivon_class
from methods.mean_field.posterior import GaussianPosterior
from methods.mean_field.prior import Prior
from methods.mean_field.report import kl_facts, tempered
from methods.mean_field.search import FACTORS
from methods.mean_field.stages import GaussianFit
from methods.mean_field.starting import StartingSigma

log = logging.getLogger("bnnbench")


def fit_ivon(problem: Problem, ctx: RunContext, config: IvonConfig) -> GaussianPosterior:
    """The fitted posterior; the problem's network is left as it was.

    Raises:
        MissingPackage: the package ivon-opt is not installed.
        ConfigError: no base run; nothing to select, or the network ignores replaced weights; a search or a rescaling
            without validation data.
        Diverged: the loss stays non-finite, or a weight ends so.
    """
    ivon_class()  # a missing package is told before anything is computed
    fit = _Fit(problem, ctx, config)
    fit.train()
    fit.report()
    fit.rescale()
    fit.warn_of_width()
    return fit.posterior(config.encoding)


class _Fit(GaussianFit):
    """The stages, with the training of `ivon`."""

    def __init__(self, problem: Problem, ctx: RunContext, config: IvonConfig) -> None:
        search_on = validation(problem, "sigma_search", "sigma_init.value") if config.sigma_search else None
        rescale_on = validation(problem, "sigma_rescale") if config.sigma_rescale else None
        self.config, self.recipe = config, _recipe(config, ctx)
        chosen = select(problem.network, config.select, train_rest=config.train_rest)
        selection = keep_used(problem.network, chosen, problem.train, ctx.seed_for("probe"))
        prior = Prior(self.recipe.l2, problem.n_train)
        start = StartingSigma(config.sigma_init, prior.log_sd, ctx.seed_for("sigma_init"))
        super().__init__(problem, ctx, selection, prior, start, search_on=search_on, rescale_on=rescale_on)
        self.facts |= {
            "estimator": "shared",
            **_recipe_facts(config, self.recipe),
            **tempered(prior.temperature, prior.n_data, problem.n_train),
        }

    def train(self) -> None:
        """The search for the start, unless a checkpoint holds it, and the training itself."""
        schedule = Schedule.of(self.problem, self.ctx, self.config)
        beta2 = decay_for(schedule.steps) if self.config.beta2 == "auto" else self.config.beta2
        learner = self._learner(schedule, beta2)
        if self.ctx.checkpoint.load() is None:
            self.search()
            learner.start_at(self._curvatures())
            learner.write_log_sd()
        self.warn_of_rounding(schedule.precision)

        def measures() -> dict[str, float]:
            learner.write_log_sd()
            return kl_facts(self.prior, self.state.mu, self.state.psi)

        self.facts["beta2"] = beta2
        self.facts |= fine_tune(
            self.problem,
            self.ctx,
            self.config,
            schedule,
            learner,
            sampler=self.draw,
            remembered={"sigma": self.start},
            measures=measures,
        )
        learner.release()
        self.require_finite(learner.advice)

    def report(self) -> None:
        """Facts of psi and of the curvature at the start, before any rescaling."""
        curvatures = self._curvatures()
        clipped = 0.0
        if self.config.hess_init is None:
            self.facts |= self.start.facts()
            clipped = self.began().clipped
        self.facts |= {"hess_init_min": min(curvatures.values()), "hess_init_max": max(curvatures.values())}
        self.report_psi(starting_log_sd(curvatures, self.prior, clipped))

    def warn_of_width(self) -> None:
        """Tell the user when the noise outgrew what the validation data allow, for the means have learned under it."""
        if self.facts["sigma_rescale"] == min(FACTORS):
            log.warning(
                "Validation data ask for noise of an eighth of its width, the least that was tried: the curvature "
                "forgot its start too fast for what these data say. Try a beta2 nearer to 1 than %g.",
                self.facts["beta2"],
            )

    def _curvatures(self) -> dict[str, float]:
        """h of every tensor before the first step; known once sigma has been searched for."""
        if self.config.hess_init is not None:
            return dict.fromkeys(self.selection.bayesian, self.config.hess_init)
        return starting_curvatures(self.began(), self.prior)

    def _learner(self, schedule: Schedule, beta2: float) -> IvonLearner:
        config, recipe, points = self.config, self.recipe, self.state.points
        descent = PointDescent(
            points,
            optimiser_for(recipe.optimiser, list(points.trained.values()), nesterov=config.nesterov),
            rate_of(config, recipe, schedule.steps),
            decaying(self.network),
            recipe.l2,
        )
        rate = rate_of(config, replace(recipe, rate=config.lr), schedule.steps)
        return IvonLearner(
            self.network, self.state, self.prior, rate, descent, beta2=beta2, seed=self.ctx.seed_for("noise")
        )


def _recipe(config: IvonConfig, ctx: RunContext) -> Recipe:
    """Rate and optimiser of the points, and lambda; of the settings alone where there is no base run."""
    if config.start == "base":
        return recipe_for(config, ctx)
    if config.l2 == "base" or config.optim_mu == "auto":
        raise ConfigError("start 'scratch' has no base run to take l2 and optim_mu from; give both")
    return Recipe(config.optim_mu, mean_rate(config, config.optim_mu), config.l2, False)


def _recipe_facts(config: IvonConfig, recipe: Recipe) -> dict[str, Fact]:
    """What was resolved; optimiser and lr are those of the Gaussians."""
    return {
        "optimiser": "ivon",
        "lr": config.lr,
        "rest_optimiser": recipe.optimiser,
        "rest_lr": recipe.rate,
        "l2": recipe.l2,
        "l2_assumed": recipe.l2_assumed,
    }

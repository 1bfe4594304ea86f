"""`2dgbnn`, from the Gaussians of a needed run to the posterior: share, fine-tune what is shared, report."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmark import ConfigError, Fact, Problem, RunContext, weights_of
from methods.finetuning.base_run import decaying, recipe_for
from methods.finetuning.descent import Descent, PointDescent, optimiser_for
from methods.finetuning.keep import keeper
from methods.finetuning.loop import Schedule, fine_tune, rate_of, recipe_facts
from methods.finetuning.points import Points, floating
from methods.finetuning.probe import keep_used
from methods.finetuning.select import layer_weights, select_these
from methods.finetuning.statistics import average_statistics
from methods.mean_field.prior import Prior, kl_weight, layer_scales
from methods.optimisers import Adam, Group
from methods.stochastic_weight_sharing.config import WeightSharingConfig
from methods.stochastic_weight_sharing.figure import plane_figure
from methods.stochastic_weight_sharing.gradients import epoch_gradients
from methods.stochastic_weight_sharing.learner import SharingLearner
from methods.stochastic_weight_sharing.measure import Measure
from methods.stochastic_weight_sharing.posterior import SharedPosterior
from methods.stochastic_weight_sharing.prior import Divergence, SharingPrior
from methods.stochastic_weight_sharing.record import Record, Trained
from methods.stochastic_weight_sharing.scope import varying
from methods.stochastic_weight_sharing.sharing.plane import Plane, standard_deviations
from methods.stochastic_weight_sharing.sharing.share import Gradients, share
from methods.stochastic_weight_sharing.sharing.shared import Shared
from methods.stochastic_weight_sharing.source import around_base, gaussians_of
from methods.stochastic_weight_sharing.state import SharedState
from methods.training import cosine, saved_part

log = logging.getLogger("bnnbench")

REFRESH_PASSES = 2
CAPTION = (
    "Weights before sharing, in the plane of their means and standard deviations (in units of their tensor's standard "
    "deviation, but for scope global): density, the Gaussians that they share as 95 % ellipses, ellipse points and "
    "outliers."
)


def fit_weight_sharing(problem: Problem, ctx: RunContext, config: WeightSharingConfig) -> SharedPosterior:
    """The fitted posterior; the problem's network is left as it was.

    Raises:
        ConfigError: no base run; no weight in scope, or the network ignores replaced weights; a source without a
            spread; all weights outliers.
        Diverged: a number of the source is not finite, or the loss stays so.
        MissingPackage: backend cuml where cuML is not installed.
    """
    fit = _Fit(problem, ctx, config)
    fit.start()
    if config.epochs > 0:
        fit.train()
    return fit.posterior()


class _Fit:
    """What the stages of one fit share."""

    state: SharedState

    def __init__(self, problem: Problem, ctx: RunContext, config: WeightSharingConfig) -> None:
        self.problem, self.ctx, self.config, self.network = problem, ctx, config, problem.network
        self.recipe = recipe_for(config, ctx)
        self.base = {name: floating(parameter.detach()) for name, parameter in self.network.named_parameters()}
        self.mean, sigma = self._source()
        chosen = tuple(name for name in layer_weights(self.network) if name in sigma)
        deviations = standard_deviations({name: self.base[name] for name in chosen})
        selection = select_these(self.network, varying(chosen, deviations))
        self.selection = keep_used(self.network, selection, problem.train, ctx.seed_for("probe"))
        self.scale = {name: deviations[name] for name in self.selection.bayesian}
        self.sigma = {name: sigma[name] for name in self.selection.bayesian}
        self.prior = self._prior()
        self.record = Record()
        self.measure = Measure(problem, ctx, config.sampling)
        self.facts: dict[str, Fact] = {
            "sampling": config.sampling,
            "codebook": config.codebook,
            "prior_scale": config.prior_scale,
            "seconds_stage1": ctx.needed[1].seconds if config.source != "base" else 0.0,
            **recipe_facts(self.recipe),
            "kl_weight": self.prior.kl_weight,
            "tempered": self.prior.kl_weight != 1,
            "marks": self._marks(),
        }

    def start(self) -> None:
        """The shared Gaussians before the first step: from a checkpoint, or made."""
        config = self.config
        saved = saved_part(self.ctx, "step") if config.epochs > 0 else None
        if saved is not None:
            self.state = SharedState.of_saved(self.network, saved["learner"]["state"])
            return
        self.record.facts |= self.measure.before(None if config.source == "base" else self.ctx.needed[1].posterior)
        shared = self._share()
        points = Points(self.network, self.selection.trained, self.selection.frozen)
        _set(points, self.mean)
        self.state = SharedState(self.network, shared, points, config.codebook)
        if config.refresh:
            self._refresh()
        self.record.facts |= self.measure.validation("val_nll_shared", self.state)
        self.ctx.log(event="sharing", **self.record.facts)

    def train(self) -> None:
        """Stage 3: shared Gaussians, outliers and the rest, on the ELBO; the labels stay."""
        config = self.config
        schedule = Schedule.of(self.problem, self.ctx, config)
        learner = self._learner(schedule)
        draw = self.state.sampler(config.sampling).drawing()
        self.record.begin()
        self.facts |= fine_tune(
            self.problem,
            self.ctx,
            config,
            schedule,
            learner,
            sampler=lambda generator: dict(draw(generator)),
            remembered={"record": self.record},
            measures=lambda: {"kl_nats_per_datum": learner.kl() / self.prior.n_data},
            keep=keeper(
                self.problem, config.keep, Trained(self.state), lambda split: self.measure.nll(self.state, split)
            ),
        )
        self.facts["seconds_stage3"] = self.record.seconds
        learner.release()

    def posterior(self) -> SharedPosterior:
        """The result, with its facts."""
        self.facts |= self.record.facts
        self.facts |= self.measure.validation("val_nll_final", self.state)
        divergence = float(Divergence(self.prior, self.state.sampler(self.config.sampling))()) / self.prior.n_data
        self.facts["kl_nats_per_datum"] = divergence
        self.facts["elbo_per_datum"] = -self.measure.training_loss(self.state) - divergence
        self.facts["trainable_scalars"] = self.state.trainable_scalars
        return self.state.posterior(self.config.sampling, self.config.storage, self.facts)

    def _source(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(mu of everything, sigma of whatever has one), by name."""
        if self.config.source == "base":
            return dict(weights_of(self.network)), around_base(self.base, standard_deviations(self.base))
        if len(self.ctx.needed) < 2:
            raise ConfigError("source asks for a run whose Gaussians are shared, and the run context holds none")
        generator = torch.Generator().manual_seed(self.ctx.seed_for("source"))
        return gaussians_of(self.ctx.needed[1].posterior, self.network, generator)

    def _prior(self) -> SharingPrior:
        own = {name: self.base[name] for name in self.selection.bayesian}
        n_data = self.problem.n_train
        if self.config.prior_scale == "layer_std":
            scales = layer_scales(own, self.recipe.l2, n_data)
        else:
            scales = dict.fromkeys(own, math.exp(Prior(self.recipe.l2, n_data).log_sd))
        weights = sum(tensor.numel() for tensor in own.values())
        return SharingPrior(scales, n_data, kl_weight(self.config.kl_weight, n_data, weights), self.config.tied_prior)

    def _share(self) -> Shared:
        mu = {name: self.mean[name] for name in self.sigma}
        gradients = self._gradients(mu)
        started = time.monotonic()
        shared = share(
            mu, self.sigma, self.config, scale=self.scale, gradients=gradients, seed=self.ctx.seed_for("sharing")
        )
        self.record.facts |= {"seconds_stage2": time.monotonic() - started, **shared.facts}
        self.ctx.figure("plane", plane_figure(Plane(mu, self.sigma, shared.scale), shared, shared.beyond), CAPTION)
        return shared

    def _gradients(self, mu: Mapping[str, Tensor]) -> Gradients | None:
        """Epoch-mean gradients at the mean weights, where a setting asks for them."""
        config = self.config
        if config.outliers != "gradient" and (config.merge != "w2" or config.tau_g is None):
            return None
        rest = {name: tensor for name, tensor in self.mean.items() if name not in mu}
        seed = self.ctx.seed_for("gradients")
        return epoch_gradients(self.network, mu, rest, self.problem.train, config.batch_size, seed)

    def _refresh(self) -> None:
        draw = self.state.sampler(self.config.sampling).drawing()
        steps = self.problem.train.steps(self.config.batch_size)
        average_statistics(
            self.network,
            self.state.points,
            lambda generator: dict(draw(generator)),
            self.problem.train,
            self.config.batch_size,
            self.ctx.seed_for("refresh"),
            REFRESH_PASSES * steps,
        )

    def _learner(self, schedule: Schedule) -> SharingLearner:
        config, state = self.config, self.state
        gaussians, trained = state.gaussians, list(state.points.trained.values())
        rate = rate_of(config, self.recipe, schedule.steps)

        def optimiser(tensors: list[Tensor]) -> Any:
            return optimiser_for(self.recipe.optimiser, tensors, nesterov=config.nesterov)

        return SharingLearner(
            self.network,
            state,
            self.prior,
            config.sampling,
            self.ctx.generator("noise", self.ctx.device),
            PointDescent(state.points, optimiser(trained), rate, decaying(self.network), self.recipe.l2),
            Descent(
                Adam([Group([gaussians.codebook.table, gaussians.outlier_log_sd])]),
                lambda t: cosine(t, schedule.steps, config.lr_codebook),
            ),
            Descent(optimiser([gaussians.outlier_mean]), rate),
        )

    def _marks(self) -> str:
        named = {"tempered": self.prior.kl_weight != 1, "tied noise": self.config.sampling == "tied"}
        return ", ".join(name for name, holds in named.items() if holds)


@torch.no_grad()
def _set(points: Points, values: Mapping[str, Tensor]) -> None:
    """Copy what `values` has of the points."""
    for group in (points.trained, points.fixed, points.buffers):
        for name, tensor in group.items():
            if name in values:
                tensor.copy_(values[name])

"""`parameter_sharing_ensemble`, from the base network to the posterior: select, search the spread, train."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from benchmark import Fact, Problem, RunContext, require_finite
from methods.finetuning.base_run import decaying, recipe_for
from methods.finetuning.descent import PointDescent, optimiser_for
from methods.finetuning.loop import Schedule, fine_tune, rate_of, recipe_facts
from methods.finetuning.points import Points
from methods.finetuning.probe import keep_used
from methods.finetuning.search import Outcome, scan_batch, validation
from methods.finetuning.select import only_layers, select
from methods.mean_field.report import selection_facts, selection_lists
from methods.optimisers import Group, Sgd
from methods.parameter_sharing_ensemble.assignment import Assignment, PerBatch, PerExample
from methods.parameter_sharing_ensemble.config import ParameterSharingEnsembleConfig
from methods.parameter_sharing_ensemble.factors import Factors, spread_of, write_component
from methods.parameter_sharing_ensemble.learner import EnsembleLearner
from methods.parameter_sharing_ensemble.posterior import SharedEnsemble
from methods.parameter_sharing_ensemble.prior import l2_term
from methods.parameter_sharing_ensemble.search import search_spread
from methods.training import cosine

log = logging.getLogger("bnnbench")

END_FRACTION = 0.1
ADVICE = "Try a third of lr_mu and of lr_factors."
ASSIGNMENTS: dict[str, type[Assignment]] = {"per_batch": PerBatch, "per_example": PerExample}


def fit_ensemble(problem: Problem, ctx: RunContext, config: ParameterSharingEnsembleConfig) -> SharedEnsemble:
    """The fitted ensemble; the problem's network is left as it was.

    Raises:
        ConfigError: no base run; no linear or convolutional layer to select, or the network ignores replaced weights;
            a search without validation data.
        Diverged: the loss stays non-finite, or a weight ends so.
    """
    fit = _Fit(problem, ctx, config)
    fit.start()
    if config.epochs > 0:
        fit.train()
    return fit.posterior()


class _Fit:
    """What the stages of one fit share."""

    def __init__(self, problem: Problem, ctx: RunContext, config: ParameterSharingEnsembleConfig) -> None:
        self.problem, self.ctx, self.config, self.network = problem, ctx, config, problem.network
        self.search_on = validation(problem, "spread_search", "spread") if config.spread_search else None
        self.recipe = recipe_for(config, ctx)
        selection = only_layers(self.network, select(self.network, config.select, train_rest=True))
        selection = keep_used(self.network, selection, problem.train, ctx.seed_for("probe"))
        self.selection = selection
        self.points = Points(self.network, selection.bayesian + selection.trained, selection.frozen)
        for name in selection.bayesian:  # components are written as matrices
            self.points.trained[name] = self.points.trained[name].contiguous()
        self.shared = {name: self.points.trained[name] for name in selection.bayesian}
        self.factors = Factors.deviates(self.shared, config.components, config.rank, ctx.seed_for("factors"))
        self.searched = Outcome()
        self.facts: dict[str, Fact] = {
            "assignment": config.assignment,
            "components": config.components,
            "rank": config.rank,
            **recipe_facts(self.recipe),
            "lr_factors": config.lr_factors,
            **selection_facts(self.network, selection),
            "extra_weights": sum(tensor.numel() for tensor in self.factors.tensors()),
        }

    def start(self) -> None:
        """The factors before the first step; nothing to do where a checkpoint holds them."""
        if self.config.epochs > 0 and self.ctx.checkpoint.load() is not None:
            return
        self.ctx.log(event="selection", **selection_lists(self.selection))
        if self.search_on:
            rest = {name: tensor for name, tensor in self.points.tensors().items() if name not in self.shared}
            found = search_spread(self.network, self.shared, self.factors, rest, self.search_on, scan_batch(self.ctx))
            self.ctx.log(event="spread_search", **self.searched.remember(found))
        self.factors.spread_to(self.spread)

    @property
    def spread(self) -> float:
        """s, given or found."""
        value = self.searched.value if self.config.spread is None else self.config.spread
        if value is None:
            raise ValueError("spread is not known yet; search for it first")
        return value

    def train(self) -> None:
        """The fine-tuning itself."""
        schedule = Schedule.of(self.problem, self.ctx, self.config)
        learner = self._learner(schedule)
        fallbacks = learner.assignment.fallbacks()

        def sampler(generator: torch.Generator) -> dict[str, Tensor]:
            c = int(torch.randint(self.factors.components, (1,), generator=generator, device=generator.device))
            out = {name: torch.empty_like(weight) for name, weight in self.shared.items()}
            write_component(out, self.shared, self.factors, c)
            return out

        self.facts |= fine_tune(
            self.problem,
            self.ctx,
            self.config,
            schedule,
            learner,
            sampler=sampler,
            remembered={"spread": self.searched, "fallbacks": fallbacks},
            measures=self._measures,
        )
        if fallbacks:
            log.warning("per_example has no formula for %s: one component per step there.", sorted(fallbacks))
        self.facts["fallback_ops"] = " ".join(sorted(fallbacks))
        learner.release()
        total = sum(float(tensor.sum(dtype=torch.float64)) for tensor in self.factors.tensors())
        require_finite(total, "the sum of the factors", ADVICE)

    def _learner(self, schedule: Schedule) -> EnsembleLearner:
        config, recipe = self.config, self.recipe
        for tensor in self.factors.tensors():
            tensor.requires_grad_()
        descent = PointDescent(
            self.points,
            optimiser_for(recipe.optimiser, list(self.points.trained.values()), nesterov=config.nesterov),
            rate_of(config, recipe, schedule.steps),
            decaying(self.network) - set(self.shared),
            recipe.l2,
        )
        peak = config.lr_factors
        return EnsembleLearner(
            self.network,
            self.points,
            list(self.shared),
            self.factors,
            ASSIGNMENTS[config.assignment](self.shared, self.factors, self.ctx.generator("components")),
            descent,
            Sgd([Group(self.factors.tensors())], nesterov=config.nesterov),
            lambda t: cosine(t, schedule.steps, peak, END_FRACTION * peak),
            recipe.l2,
            clip_norm=config.clip_norm,
        )

    def _measures(self) -> dict[str, float]:
        term = l2_term(self.shared, self.factors, self.recipe.l2)
        return {"l2_term": term, "spread": spread_of(self.factors)}

    def posterior(self) -> SharedEnsemble:
        """The result, with its facts."""
        measures = self._measures()
        self.facts |= {"spread": self.spread, "spread_end": measures["spread"], "l2_term": measures["l2_term"]}
        if self.search_on:
            self.facts["spread_search_at_edge"] = self.searched.at_edge
        rest = {name: tensor for name, tensor in self.points.floats().items() if name not in self.shared}
        return SharedEnsemble(
            {name: tensor.detach() for name, tensor in self.shared.items()}, self.factors, rest, facts=self.facts
        )

"""`last_block_ensemble`, from the base network to the posterior: find the block, copy it, train, measure."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from benchmark import Fact, Problem, RunContext, evaluating, forward, require_finite, seed_from, weights_of
from methods.finetuning.base_run import Recipe, decaying, recipe_for
from methods.finetuning.descent import PointDescent, Rate, optimiser_for
from methods.finetuning.loop import Schedule, fine_tune, recipe_facts
from methods.finetuning.points import Points
from methods.last_block_ensemble.block import feature_variance, features_of
from methods.last_block_ensemble.config import LastBlockEnsembleConfig
from methods.last_block_ensemble.learner import Copies, LastBlockLearner
from methods.last_block_ensemble.locate import LastBlock, locate
from methods.last_block_ensemble.noise import Noise
from methods.last_block_ensemble.posterior import LastBlockPosterior
from methods.training import cosine

MEASURED = 256
"""Training examples on which the members' distance is reported."""
AUTO_GAMMA = 2.5
"""In units of the mean square of the base network's features."""
LOWEST_RATE = 0.1
"""Last rate of the copies, relative to the first."""


class Rates(NamedTuple):
    """Of the copies (with sgd: per member) and of the rest."""

    copies: float
    rest: float


AUTO_RATES = {"sgd": Rates(0.005, 0.01), "adam": Rates(1e-3, 1e-4)}


def fit_last_block_ensemble(problem: Problem, ctx: RunContext, config: LastBlockEnsembleConfig) -> LastBlockPosterior:
    """The fitted posterior; the problem's network is left as it was.

    Raises:
        ConfigError: no base run; no last block that can have copies (see `locate`).
        Diverged: the loss stays non-finite, or a weight ends so.
    """
    recipe = recipe_for(config, ctx)
    block = locate(problem.network, config.blocks, problem.train, ctx.seed_for("probe"))
    if ctx.checkpoint.load() is None:  # a history that goes on has it already
        ctx.log(event="block", copied=" ".join(block.selection.bayesian), without_copies=" ".join(block.without_copies))
    fit = _Fit(problem, ctx, config, recipe, block)
    facts = fit.train()
    return LastBlockPosterior(
        fit.points.floats(), fit.copies.trained, block.place, {**fit.facts(), **facts, **fit.distances()}
    )


class _Fit:
    """What the stages of one fit share."""

    def __init__(
        self, problem: Problem, ctx: RunContext, config: LastBlockEnsembleConfig, recipe: Recipe, block: LastBlock
    ) -> None:
        self.problem, self.ctx, self.config, self.recipe, self.block = problem, ctx, config, recipe, block
        self.points = Points(problem.network, block.selection.trained, block.selection.frozen)
        self.copies = Copies(problem.network, block.selection.bayesian, config.components)
        auto = AUTO_RATES[recipe.optimiser]
        share = config.components if recipe.optimiser == "sgd" else 1
        self.rate = auto.copies * share if config.lr_mu == "auto" else config.lr_mu
        self.rate_of_rest = auto.rest if config.lr_rest == "auto" else config.lr_rest
        self.gamma = self._mean_square() * AUTO_GAMMA if config.gamma == "auto" else config.gamma

    def train(self) -> dict[str, Fact]:
        """The fine-tuning itself; facts of the training."""
        schedule = Schedule.of(self.problem, self.ctx, self.config, divisible=False)
        learner = self._learner(schedule)
        facts = fine_tune(
            self.problem,
            self.ctx,
            self.config,
            schedule,
            learner,
            sampler=self.copies.one,
            measures=lambda: {"noisy_distance": float(learner.distance)},
        )
        learner.release()
        for name, stack in self.copies.trained.items():
            require_finite(float(stack.sum(dtype=torch.float64)), f"the sum of the copies of '{name}'", learner.advice)
        return facts

    def _learner(self, schedule: Schedule) -> LastBlockLearner:
        config, ctx, network = self.config, self.ctx, self.problem.network

        def descent(of: Points | Copies, rate: Rate, lam: float) -> PointDescent:
            optimiser = optimiser_for(self.recipe.optimiser, list(of.trained.values()), nesterov=config.nesterov)
            return PointDescent(of, optimiser, rate, decaying(network), lam)

        return LastBlockLearner(
            network,
            self.block.place,
            self.points,
            self.copies,
            descent(self.points, lambda t: self.rate_of_rest, self.recipe.l2),
            # Each copy has a C-th of the data's gradient, and of the prior's.
            descent(self.copies, self._rate_of_copies(schedule.steps), self.recipe.l2 / config.components),
            self._noise(ctx.generator("noise choices"), ctx.generator("noise", ctx.device)),
            ctx.generator("members"),
            alpha=config.alpha,
            gamma=self.gamma,
            clip_norm=config.clip_norm,
        )

    def _rate_of_copies(self, steps: int) -> Rate:
        peak = self.rate
        if self.config.schedule_mu == "constant":
            return lambda t: peak
        return lambda t: cosine(t, steps, peak, LOWEST_RATE * peak)

    def _noise(self, choices: torch.Generator, pixels: torch.Generator) -> Noise:
        config = self.config
        return Noise(self.problem.train, config.noise_low, config.noise_high, config.blur, choices, pixels)

    def facts(self) -> dict[str, Fact]:
        """Settings as resolved, and the block."""
        config, place = self.config, self.block.place
        return {
            "components": config.components,
            "blocks": config.blocks,
            "copied_weights": sum(stack[0].numel() for stack in self.copies.trained.values()),
            "without_copies": " ".join(self.block.without_copies),
            "entrance": place.entrance,
            "features": place.exit,
            "alpha": config.alpha,
            "gamma": self.gamma,
            "noise": f"{config.noise_low:g} to {config.noise_high:g} x 16/255, {100 * config.blur:g} % blurred",
            **recipe_facts(self.recipe),
            "lr": self.rate,
            "lr_rest": self.rate_of_rest,
        }

    @torch.no_grad()
    def _mean_square(self) -> float:
        """Of the base network's features, on training examples."""
        network = self.problem.network
        with evaluating(network), features_of(network, self.block.place.exit) as kept:
            forward(network, weights_of(network), self.problem.train.first(MEASURED).inputs)
        return float(kept["features"].double().square().mean())

    @torch.no_grad()
    def distances(self) -> dict[str, Fact]:
        """Mean distance of two members' features on training examples as they are, and with noise."""
        inputs = self.problem.train.first(MEASURED).inputs
        seed = self.ctx.seed_for("distances")
        choices = torch.Generator().manual_seed(seed_from(seed, "choices"))
        pixels = torch.Generator(inputs.device).manual_seed(seed_from(seed, "pixels"))
        with evaluating(self.problem.network):
            return {
                "feature_distance_clean": self._distance(inputs),
                "feature_distance_noisy": self._distance(self._noise(choices, pixels)(inputs)),
            }

    def _distance(self, inputs: Tensor) -> float:
        shared = self.points.tensors()
        variances = feature_variance(self.problem.network, self.block.place, shared, self.copies.trained, inputs)
        return 2 * float(variances.double().mean())

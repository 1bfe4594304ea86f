"""Sampling by stochastic gradients: chains one after the other, in cycles of exploring and sampling."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmark import Diverged, Fact, Problem, RunContext, seed_from
from methods.finetuning.modes import norms, only_norms_training
from methods.finetuning.step import launchers_micro_batch
from methods.hmc.config import SamplingConfig
from methods.hmc.cyclical import Cycle, starting_rate
from methods.hmc.integrators import INTEGRATORS, Integrator
from methods.hmc.precondition import is_preconditioned
from methods.hmc.stochastic_chain import StochasticChain
from methods.hmc.stochastic_states import Kept, StochasticResult
from methods.hmc.stochastic_target import StochasticTarget

HOTTEST = 2.0
"""Kinetic temperature, of a target at temperature 1, above which gradient noise or the step size rules the samples."""
MOST_FAILURES = 3
log = logging.getLogger("bnnbench")


def sample_stochastically(
    problem: Problem, ctx: RunContext, config: SamplingConfig, scales: Mapping[str, float]
) -> StochasticResult:
    """Run all chains, from a checkpoint if there is one.

    config: settled, with sampler sghmc. scales: standard deviation of the prior by trainable parameter. Chains start at
    the problem's network (init map), which is left as it was, or at initialisations of their own (init random).
    Order, augmentation and noise are the run's own per chain. Where the loss stops being finite or a sampling stage is
    hotter than `HOTTEST`, the learning rate is halved and the cycle begins anew.

    Raises:
        ConfigError: settings that do not fit each other, or batches too small for batch statistics.
        Diverged: a cycle failed three times in a row.
    """
    sampling = _Sampling(problem, ctx, config, scales)
    with only_norms_training(problem.network, True):
        sampling.run()
    return sampling.result()


@dataclass
class _Position:
    """chain, cycle, epoch of the cycle, steps done of it and their losses; failures of this cycle so far."""

    chain: int = 0
    cycle: int = 0
    failures: int = 0
    epoch: int = 0
    done: int = 0
    losses: list[Tensor] = field(default_factory=list)

    def mean_loss(self) -> float:
        return float(torch.stack(self.losses).mean())


class _Sampling:
    """Everything that changes while sampling; saved and restored as one checkpoint."""

    def __init__(self, problem: Problem, ctx: RunContext, config: SamplingConfig, scales: Mapping[str, float]) -> None:
        self.problem, self.ctx, self.config = problem, ctx, config
        self.chains, self.cycles, nominal = _lengths(config)
        self.split = problem.train if config.augment else problem.train.first(len(problem.train))
        self.epochs, self.per_epoch = problem.epochs(nominal), self.split.steps(config.batch_size)
        self.cycle = Cycle(self.epochs * self.per_epoch, config.explore, config.schedule, config.snapshots)
        self.stored = {t: index for index, t in enumerate(self.cycle.stored())}
        self.integrator: Integrator = INTEGRATORS[config.integrator](
            len(self.split), config.momentum, config.temperature
        )
        self.lr = starting_rate(problem.network, config)
        self.preconditioned = is_preconditioned(problem.network, config)
        self.target = StochasticTarget(
            problem.network,
            scales,
            self.split,
            batch_size=config.batch_size,
            micro_batch=launchers_micro_batch(ctx, config.batch_size, harmless=not norms(problem.network)),
        )
        self.kept = Kept(problem, self.target, self.chains, self.cycles * config.snapshots)
        self.at, self.restarts, self.gradients = _Position(), 0, 0
        self.done_chains: list[list[float]] = []  # lr, T_kin, T_conf of each
        self.chain: StochasticChain | None = None

    def run(self) -> None:
        """Epoch by epoch, until every chain has run its cycles."""
        self._restore()
        while self.at.chain < self.chains:
            if self.chain is None:
                self.chain = self._new_chain()
            self._epoch(self.chain)
            self._conclude(self.chain)
            self.ctx.checkpoint.offer(self._state)

    def _new_chain(self) -> StochasticChain:
        number = self.at.chain
        random = self.config.init == "random"
        start = self.problem.new_network(self.ctx.seed_for("init", number)) if random else self.problem.network
        return StochasticChain(
            self.target,
            start,
            self.cycle,
            self.integrator,
            lr=self.lr,
            preconditioned=self.preconditioned,
            generator=self.ctx.generator(f"noise{number}", self.ctx.device),
        )

    def _epoch(self, chain: StochasticChain) -> None:
        at = self.at
        seed = seed_from(self.ctx.seed_for("data"), at.chain, at.cycle, at.failures, at.epoch)
        order = torch.Generator().manual_seed(seed)
        batches = self.split.training_batches(self.config.batch_size, order, skip=at.done)
        for index, (inputs, labels) in enumerate(batches, start=at.done):
            t = at.epoch * self.per_epoch + index
            at.losses.append(chain.step(inputs, labels, t))
            at.done, self.gradients = index + 1, self.gradients + 1
            if t in self.stored:
                self._keep(self.stored[t])
            cycle = at.chain * self.cycles + at.cycle
            self.ctx.progress(cycle * self.cycle.steps + t + 1, self.chains * self.cycles * self.cycle.steps)
            if at.done < self.per_epoch:
                self.ctx.checkpoint.offer(self._state)

    def _keep(self, snapshot: int) -> None:
        """Store the state, its running statistics and its log posterior, in one place per cycle and snapshot, so that
        a cycle that begins anew overwrites what it stored."""
        at, place = self.at, self.at.cycle * self.config.snapshots + snapshot
        statistics = self.target.estimate_statistics(self.ctx.seed_for("statistics"))
        log_posterior = self.target.log_posterior() / self.config.temperature
        self.kept.put(at.chain, place, self.target.weights.flat, statistics, log_posterior)
        self.ctx.log(event="snapshot", chain=at.chain, cycle=at.cycle, snapshot=snapshot, log_posterior=log_posterior)

    def _conclude(self, chain: StochasticChain) -> None:
        """After an epoch: look at what it gave, and decide where to go on."""
        at, loss, found = self.at, self.at.mean_loss(), chain.temperatures()
        heat = {} if found is None else {"kinetic_temperature": found[0], "configurational_temperature": found[1]}
        lr = chain.lr * self.cycle.factor(at.epoch * self.per_epoch + self.per_epoch - 1)
        self.ctx.log(chain=at.chain, cycle=at.cycle, epoch=at.epoch + 1, train_loss=loss, lr=lr, **heat)
        at.epoch, at.done, at.losses = at.epoch + 1, 0, []
        trouble = self._trouble(loss, found if chain.relaxes else None)
        if trouble is not None:
            self._begin_anew(chain, trouble)
        elif at.epoch == self.epochs:
            self._end_cycle(chain)

    def _trouble(self, loss: float, found: tuple[float, float] | None) -> str | None:
        """What is wrong with this cycle, None: nothing. Temperatures are judged when a cycle is over: earlier they are
        means of few steps."""
        if not math.isfinite(loss):
            return f"the loss became {loss}"
        if self.at.epoch < self.epochs:
            return None
        limit = HOTTEST * max(1.0, self.config.temperature)
        if found is not None and not found[0] <= limit:
            return f"the kinetic temperature while sampling is {found[0]:.3g}, more than {limit:g}"
        at, snapshots = self.at, self.config.snapshots
        ended = self.kept.log_posterior[at.chain, at.cycle * snapshots : (at.cycle + 1) * snapshots]
        return None if bool(ended.isfinite().all()) else "the log posterior of a stored state is not finite"

    def _begin_anew(self, chain: StochasticChain, trouble: str) -> None:
        at, lr = self.at, chain.lr
        at.failures, at.epoch = at.failures + 1, 0
        self.ctx.log(event="restart", chain=at.chain, cycle=at.cycle, lr=lr, reason=trouble)
        if at.failures == MOST_FAILURES:
            raise Diverged(
                f"chain {at.chain}, cycle {at.cycle} failed {MOST_FAILURES} times in a row, the last time at "
                f"lr {lr:.3g}: {trouble}. Set a lower lr (it began at {self.lr:g}) or a larger batch_size."
            )
        chain.restart()
        self.restarts += 1
        log.warning("Chain %d, cycle %d: %s. It begins anew at lr %.3g.", at.chain, at.cycle, trouble, chain.lr)

    def _end_cycle(self, chain: StochasticChain) -> None:
        at = self.at
        chain.begin_cycle()
        at.cycle, at.epoch, at.failures = at.cycle + 1, 0, 0
        if at.cycle == self.cycles:
            self.done_chains.append([chain.lr, *(chain.past_temperatures() or (math.nan, math.nan))])
            self.chain, self.at = None, _Position(chain=at.chain + 1)

    def result(self) -> StochasticResult:
        """What has been stored, with the facts."""
        return StochasticResult(
            self.kept.states, self.target.weights.shapes(), self.kept.buffers, self.kept.log_posterior, self.facts()
        )

    def facts(self) -> dict[str, Fact]:
        """lr: the lowest lr0 that a chain ended with. kinetic_temperature, configurational_temperature: over all
        sampling steps, mean of the chains; both are T for an exact sampler. restarts, gradients: counts."""
        rates, kinetic, configurational = zip(*self.done_chains, strict=True)
        return {
            "integrator": self.config.integrator,
            "precondition": "rmsprop" if self.preconditioned else "none",
            "lr": min(rates),
            "kinetic_temperature": sum(kinetic) / self.chains,
            "configurational_temperature": sum(configurational) / self.chains,
            "restarts": self.restarts,
            "gradients": self.gradients,
        }

    def _state(self) -> dict[str, Any]:
        at = self.at
        return {
            "at": [at.chain, at.cycle, at.failures, at.epoch, at.done],
            "losses": torch.stack(at.losses) if at.losses else torch.zeros(0),
            "counts": [self.restarts, self.gradients],
            "done_chains": self.done_chains,
            "kept": self.kept.state_dict(),
            "chain": None if self.chain is None else self.chain.state_dict(),
        }

    def _restore(self) -> None:
        saved = self.ctx.checkpoint.load()
        if saved is None:
            return
        self.at = _Position(*saved["at"])
        self.at.losses = list(saved["losses"].to(self.ctx.device))
        self.restarts, self.gradients = saved["counts"]
        self.done_chains = saved["done_chains"]
        self.kept.load_state_dict(saved["kept"])
        if saved["chain"] is not None:
            state = self.ctx.generator(f"noise{self.at.chain}", self.ctx.device).get_state()
            self.chain = self._new_chain()
            self.chain.load_state_dict(saved["chain"])
            self.ctx.generator(f"noise{self.at.chain}", self.ctx.device).set_state(state)


def _lengths(config: SamplingConfig) -> tuple[int, int, int]:
    """Chains, cycles, nominal epochs of a cycle."""
    if config.sampler != "sghmc" or config.chains is None or config.cycles is None or config.cycle_epochs is None:
        raise ValueError("stochastic sampling needs settled settings with sampler sghmc: call `tiers.settled` first")
    return config.chains, config.cycles, config.cycle_epochs

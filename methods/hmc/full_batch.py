"""Full-batch sampling of a run, from a checkpoint if there is one: our chains, or Pyro's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmark import Diverged, Fact, Problem, RunContext
from methods.hmc.chains import HmcChains
from methods.hmc.config import SamplingConfig
from methods.hmc.density import Density
from methods.hmc.pyro_backend import pyro_states

MOST_DIVERGENT, LEAST_ACCEPTED, MOST_ACCEPTED = 0.05, 0.1, 0.98
log = logging.getLogger("bnnbench")


def sample_chains(
    problem: Problem, ctx: RunContext, config: SamplingConfig, density: Density, scale: float
) -> tuple[Tensor, dict[str, Fact]]:
    """States (C, keep, P) float32 on the CPU, and facts of the sampler.

    config: settled, with sampler hmc or pyro. scale: median standard deviation of the prior. Burn-in and samples are as
    configured under any budget: a shorter chain would be another standard, not a cheaper one.

    Raises:
        Diverged: the chains are stuck, or too many trajectories diverge.
        ConfigError: as `pyro_states`.
    """
    starts = torch.stack([density.flatten(_start(problem, ctx, config, chain)) for chain in range(config.chains or 1)])
    if config.sampler == "pyro":
        states = _by_pyro(ctx, config, density, starts, scale)
        return states, {"kernel": config.kernel, "moved": _moved(states)}
    generators = [ctx.generator(f"chain{chain}") for chain in range(len(starts))]
    jitter = ctx.generator("jitter")
    chains = HmcChains(density, starts, config, scale=scale, generators=generators, jitter=jitter)
    saved = ctx.checkpoint.load()
    if saved is not None:
        chains.load_state_dict(saved["chains"])
    while not chains.done:
        chains.step()
        _log(ctx, chains)
        ctx.checkpoint.offer(lambda: {"chains": chains.state_dict()})
    return chains.kept.states, _facts(chains, config.burn_in or 0)


def _start(problem: Problem, ctx: RunContext, config: SamplingConfig, chain: int) -> Mapping[str, Tensor]:
    random = config.init == "random"
    network = problem.new_network(ctx.seed_for("init", chain)) if random else problem.network
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


def _log(ctx: RunContext, chains: HmcChains) -> None:
    last, trace = chains.trace.done - 1, chains.trace
    acceptance = float(trace.acceptance[last].mean())
    ctx.log(
        trajectory=last + 1,
        acceptance=acceptance,
        divergent=int(trace.divergent[last].sum()),
        step_size=chains.step_size,
        leapfrog_steps=int(trace.steps[last]),
        **{f"log_posterior_{chain}": float(value) for chain, value in enumerate(trace.log_posterior[last])},
    )
    ctx.progress(last + 1, chains.trajectories, acceptance=acceptance)


def _facts(chains: HmcChains, burn_in: int) -> dict[str, Fact]:
    """acceptance, divergences, jump after burn-in; step_size, leapfrog, gradients, trajectory_truncated.

    Raises:
        Diverged: these chains are no sample of anything.
    """
    acceptance, counted = chains.acceptance, (chains.trajectories - burn_in) * len(chains.states)
    if acceptance < LEAST_ACCEPTED:
        raise Diverged(
            f"the chains are stuck: {100 * acceptance:.1f} % of the proposals were accepted after burn-in at step size "
            f"{chains.step_size:.3g}. Set a smaller step_size, or a longer burn_in for it to be found."
        )
    if chains.divergences > MOST_DIVERGENT * counted:
        raise Diverged(
            f"{chains.divergences} of {counted} trajectories after burn-in diverged at step size "
            f"{chains.step_size:.3g}, legal: {100 * MOST_DIVERGENT:.0f} %. "
            "Set a smaller step_size or a higher target_accept."
        )
    if acceptance > MOST_ACCEPTED:
        log.warning("Acceptance is %.3f: a larger step size would move the chains further.", acceptance)
    return {
        "acceptance": acceptance,
        "divergences": chains.divergences,
        "jump": chains.jump,
        "step_size": chains.step_size,
        "leapfrog": chains.leapfrog,
        "trajectory_truncated": chains.truncated,
        "gradients": chains.gradients,
    }


def _by_pyro(ctx: RunContext, config: SamplingConfig, density: Density, starts: Tensor, scale: float) -> Tensor:
    saved: dict[str, Any] = ctx.checkpoint.load() or {"finished": {}}
    finished: dict[int, Tensor] = dict(saved["finished"])

    def after_chain(chain: int, states: Tensor) -> None:
        finished[chain] = states
        ctx.progress(chain + 1, len(starts))
        ctx.checkpoint.offer(lambda: {"finished": finished})

    seeds = [ctx.seed_for("pyro", chain) for chain in range(len(starts))]
    return pyro_states(density, starts, config, scale=scale, seeds=seeds, finished=finished, after_chain=after_chain)


def _moved(states: Tensor) -> float:
    """Share of stored states that differ from the one before; 1 for a single state.

    Raises:
        Diverged: a chain stands still.
    """
    moves = (states[:, 1:] != states[:, :-1]).any(-1).double()  # (C, keep - 1)
    if moves.numel() == 0:
        return 1.0
    if float(moves.mean(1).min()) < LEAST_ACCEPTED:
        raise Diverged("a chain of Pyro stands still. Leave step_size to its adaptation, or raise burn_in.")
    return float(moves.mean())

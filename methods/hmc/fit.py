"""`hmc`, from network and data to stored states, their diagnostics and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

import numpy as np
import torch
from torch import Tensor

from benchmark import Fact, Problem, RunContext, weights_of
from methods.finetuning.modes import norms
from methods.finetuning.statistics import reset_statistics, statistics_of
from methods.hmc.config import SamplingConfig
from methods.hmc.density import Density
from methods.hmc.diagnostics import Convergence, fixed_inputs, function_values
from methods.hmc.figure import sampling_figure
from methods.hmc.full_batch import sample_chains
from methods.hmc.halves import distance_of_halves
from methods.hmc.posterior import ChainSamples
from methods.hmc.prior import prior_scales
from methods.hmc.stochastic import sample_stochastically
from methods.hmc.tiers import settled

CAPTION = (
    "Left: log posterior of the stored states, one line per chain. Right: distribution of R-hat over the "
    "log-probabilities of fixed inputs, all of which should be left of the line."
)


def fit_hmc(problem: Problem, ctx: RunContext, config: SamplingConfig) -> ChainSamples:
    """All stored states; the problem's network is left as it was.

    Raises:
        ConfigError: settings that network, data or base run do not allow.
        Diverged: the sampler did not sample.
    """
    parameters = sum(value.numel() for value in problem.network.parameters() if value.requires_grad)
    config = settled(config, parameters, problem.n_train)
    base = ctx.needed[0].facts if ctx.needed else None
    scales = prior_scales(problem.network, config, problem.n_train, base)
    if config.sampler == "sghmc":
        made = sample_stochastically(problem, ctx, config, scales)
        states, shapes, buffers, log_posterior = made.states, made.shapes, made.buffers, made.log_posterior
        facts = made.facts
    else:
        density = Density(
            problem.network,
            problem.train.first(problem.n_train),
            scales,
            temperature=config.temperature,
            data_chunk=config.data_chunk or (None if norms(problem.network) else ctx.micro_batch),
        )
        states, facts = sample_chains(problem, ctx, config, density, median(scales.values()))
        shapes, buffers = density.shapes, _statistics(problem, ctx, density, states)
        log_posterior = _log_posterior(density, states)
    facts = {"sampler": str(config.sampler), "prior_std": median(scales.values()), **facts}
    return _concluded(problem, ctx, config, _posterior(problem, states, shapes, buffers), log_posterior, facts)


def _posterior(
    problem: Problem, states: Tensor, shapes: Mapping[str, torch.Size], buffers: Mapping[str, Tensor]
) -> ChainSamples:
    own = weights_of(problem.network)
    rest = {name: tensor for name, tensor in own.items() if name not in shapes and name not in buffers}
    device = next(iter(own.values())).device
    return ChainSamples(states.to(device), shapes, {name: buffer.to(device) for name, buffer in buffers.items()}, rest)


def _concluded(
    problem: Problem,
    ctx: RunContext,
    config: SamplingConfig,
    posterior: ChainSamples,
    log_posterior: Tensor,
    facts: dict[str, Fact],
) -> ChainSamples:
    """The posterior with facts of its convergence, and the run's figure."""
    inputs, origin = fixed_inputs(problem)
    log_probs = function_values(problem.network, posterior.shapes, posterior.states.float(), posterior.buffers, inputs)
    lengths = log_posterior.cpu().numpy()
    convergence = Convergence.of(lengths, log_probs, strict=config.strict, diagnosed_on=origin)
    facts |= {"chains": posterior.chains, "states": posterior.support, **convergence.facts()}
    facts |= {"diagnosis": _diagnosis(convergence, facts, config.temperature)}
    facts |= distance_of_halves(problem, posterior)
    tempered = config.temperature != 1 or config.augment
    marks = (["tempered"] if tempered else []) + ([] if convergence.converged else ["not converged"])
    facts |= {"posterior": "tempered" if tempered else "bayes"} | ({"marks": ", ".join(marks)} if marks else {})
    ctx.figure("sampling", sampling_figure(lengths, np.asarray(log_probs), strict=config.strict), CAPTION)
    return posterior.with_facts(facts)


def _diagnosis(convergence: Convergence, facts: Mapping[str, Fact], temperature: float) -> str:
    """What the chains were judged by, in words; with stochastic gradients the temperatures as well."""
    if "kinetic_temperature" not in facts:
        return convergence.diagnosis()
    kinetic, configurational = (float(facts[f"{kind}_temperature"]) for kind in ("kinetic", "configurational"))
    return f"{convergence.diagnosis()}, T_kin {kinetic:.3g} and T_conf {configurational:.3g} (both {temperature:g})"


def _log_posterior(density: Density, states: Tensor) -> Tensor:
    """(C, K) float64, divided by T."""
    found = [density.gradient(states[:, index].to(density.device)) for index in range(states.shape[1])]
    each = [(one.log_likelihood + one.log_prior) / density.temperature for one in found]
    return torch.stack(each, dim=1).cpu()


def _statistics(problem: Problem, ctx: RunContext, density: Density, states: Tensor) -> dict[str, Tensor]:
    """Running statistics of every state, name -> (C, K, ...), from the batch that its likelihood saw: all training
    data; none where the network keeps none."""
    network, names = problem.network, statistics_of(problem.network)
    own, seed = weights_of(network), ctx.seed_for("statistics")
    found = [
        reset_statistics(network, own | density.weights(state.to(density.device)), problem.train, problem.n_train, seed)
        for state in (states.flatten(0, 1) if names else ())
    ]
    return {name: torch.stack([one[name].cpu() for one in found]).unflatten(0, states.shape[:2]) for name in names}

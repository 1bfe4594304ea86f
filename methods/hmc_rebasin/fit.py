"""`hmc_rebasin` and its two controls, from the samples of a run to summaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmark import Fact, Problem, RunContext
from methods.finetuning.modes import norms
from methods.hmc.posterior import ChainSamples
from methods.hmc_rebasin.alignment import aligned_samples, checked_groups, samples_of_run
from methods.hmc_rebasin.build import build
from methods.hmc_rebasin.config import AlignedConfig, RebasinConfig, SummaryConfig
from methods.hmc_rebasin.experiments import run_experiments
from methods.hmc_rebasin.inputs import Material
from methods.hmc_rebasin.posterior import CompactPosterior
from methods.map.evaluation import Evaluation, evaluate_draws
from methods.symmetry.align import Aligned
from methods.symmetry.transpositions import transpositions_of

UNALIGNED = "unaligned"
"""In place of a frame: samples as they come have none in common."""


def fit_rebasin(problem: Problem, ctx: RunContext, config: RebasinConfig) -> CompactPosterior:
    """q_r: the summary of aligned samples; draws the figures of `config.experiments`.

    Raises:
        UnsupportedArchitecture: the network's permutation groups are not known.
        ConfigError: the run of `hmc` has too few samples, or the network does not allow a setting.
    """
    run = samples_of_run(ctx)
    groups = checked_groups(problem.network, problem)
    rest = rest_of(run)
    aligned = aligned_samples(problem, ctx, config, groups, run.stacked())
    built = build(problem, ctx, config, groups, aligned.samples, rest, aligned.frame_id)
    facts = _inherited(ctx) | _of_alignment(aligned) | _evaluations(problem, ctx, built.posterior, run)
    control = float(ctx.needed[1].facts["rms_mean"])
    facts |= {"signal_ratio": float(built.posterior.facts()["rms_mean"]) / control if control > 0 else 0.0}
    material = Material(problem, ctx, config, groups, run, rest, aligned, built)
    facts |= run_experiments(material)
    return built.posterior.with_facts(facts)


def fit_unaligned(problem: Problem, ctx: RunContext, config: SummaryConfig) -> CompactPosterior:
    """q_d: the same summary of the samples as they come."""
    run = samples_of_run(ctx)
    samples = run.stacked()
    built = build(problem, ctx, config, None, samples, rest_of(run), UNALIGNED)
    facts = _inherited(ctx, control=True) | _evaluations(problem, ctx, built.posterior, run)
    return built.posterior.with_facts(facts)


def fit_prior_control(problem: Problem, ctx: RunContext, config: AlignedConfig) -> CompactPosterior:
    """The same summary, aligned in the same way, of as many draws from the prior: the structure that alignment makes
    of nothing."""
    run = samples_of_run(ctx)
    groups = checked_groups(problem.network, problem)
    draws = prior_draws(ctx, run)
    aligned = aligned_samples(problem, ctx, config, groups, draws)
    built = build(problem, ctx, config, groups, aligned.samples, rest_of(run), aligned.frame_id)
    return built.posterior.with_facts(_inherited(ctx, control=True) | _of_alignment(aligned))


def rest_of(run: ChainSamples) -> dict[str, Tensor]:
    """What a forward pass needs besides the sampled parameters, of the first state."""
    return {name: tensor for name, tensor in run.weights(0, 0).items() if name not in run.shapes}


def prior_draws(ctx: RunContext, run: ChainSamples) -> dict[str, Tensor]:
    """As many draws from the prior of the run as it has states, name -> (K, ...)."""
    needed = ctx.needed[0]
    table: Any = needed.config.get("prior_std")
    generator = ctx.generator("prior", run.states.device)
    drawn = {}
    for name, shape in run.shapes.items():
        scale = float(table[name]) if isinstance(table, Mapping) else float(needed.facts["prior_std"])
        noise = torch.empty(run.support, *shape, device=run.states.device)
        drawn[name] = noise.normal_(generator=generator).mul_(scale)
    return drawn


def _inherited(ctx: RunContext, control: bool = False) -> dict[str, Fact]:
    """What the samples' own run says that a reader of the row must know, too."""
    facts = ctx.needed[0].facts
    marks = [*([str(facts["marks"])] if facts.get("marks") else []), *(["control"] if control else [])]
    kept = {name: facts[name] for name in ("sampler", "prior_std", "posterior", "converged") if name in facts}
    return kept | ({"marks": ", ".join(marks)} if marks else {}) | ({"ranked": False} if control else {})


def _of_alignment(aligned: Aligned) -> dict[str, Fact]:
    """sweeps; spread_first, spread: sum of squared distances to the mean after the first match and at the end;
    transpositions: of the matches to the reference, mean, relative to chance."""
    each = [transpositions_of(match.permutations).normalised for match in aligned.matches]
    return {
        "sweeps": aligned.sweeps,
        "spread_first": aligned.trace[0],
        "spread": aligned.trace[-1],
        "transpositions": sum(each) / len(each),
        "frame": aligned.frame_id,
    }


def _evaluations(problem: Problem, ctx: RunContext, posterior: CompactPosterior, run: ChainSamples) -> dict[str, Fact]:
    """Validation accuracy and NLL of the mean network and of draws; with running statistics also of the mean network
    with the average of the samples' own."""
    if problem.val is None:
        return {}
    mean = posterior.mean()
    generator = torch.Generator().manual_seed(ctx.seed_for("validation"))
    found = {
        "mean": evaluate_draws(problem.network, [mean], problem.val),
        "draws": evaluate_draws(problem.network, posterior.draws(problem.draws, generator), problem.val),
    }
    if norms(problem.network):
        averaged = {name: buffer.flatten(0, 1).mean(0) for name, buffer in run.buffers.items()}
        found["mean_without_reset"] = evaluate_draws(problem.network, [{**mean, **averaged}], problem.val)
    return {key: value for name, one in found.items() for key, value in _columns(name, one).items()}


def _columns(name: str, found: Evaluation) -> dict[str, Fact]:
    return {f"val_accuracy_{name}": found.accuracy, f"val_nll_{name}": found.nll}

"""`hmc_rebasin` and its two controls, from the samples of a run to summaries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmark import Fact, Problem, RunContext
from methods.hmc.diagnostics import weights_rhat
from methods.hmc.posterior import ChainSamples
from methods.hmc_rebasin.alignment import aligned_samples, checked_groups, samples_of_run
from methods.hmc_rebasin.build import build
from methods.hmc_rebasin.config import AlignedConfig, RebasinConfig, SummaryConfig
from methods.hmc_rebasin.experiments import run_experiments
from methods.hmc_rebasin.inputs import Material
from methods.hmc_rebasin.posterior import CompactPosterior
from methods.hmc_rebasin.repair import require_repairable
from methods.map.evaluation import Evaluation, evaluate_draws
from methods.symmetry.align import Aligned
from methods.symmetry.discover import groups_of
from methods.symmetry.errors import UnsupportedArchitecture
from methods.symmetry.matched import apply
from methods.symmetry.transpositions import transpositions_of

UNALIGNED = "unaligned"
"""In place of a frame: samples as they come have none in common."""
WEIGHTS = 20_000
"""Weights from which `weights_rhat` takes its own."""


def fit_rebasin(problem: Problem, ctx: RunContext, config: RebasinConfig) -> CompactPosterior:
    """q_r: the summary of aligned samples; draws the figures of `config.experiments`.

    Raises:
        UnsupportedArchitecture: the network's permutation groups are not known.
        ConfigError: the run of `hmc` has too few samples, or the network does not allow a setting.
    """
    run, dropped = samples_of_run(ctx)
    if config.repair:
        require_repairable(problem.network)
    groups = checked_groups(problem.network, problem)
    rest = rest_of(run)
    aligned = aligned_samples(problem, ctx, config, groups, run.stacked())
    built = build(problem, ctx, config, groups, aligned.samples, rest, aligned.frame_id)
    buffers = [
        apply(groups, match, run.statistics(index)) for index, match in enumerate(aligned.matches) if run.buffers
    ]
    facts = _inherited(ctx) | _of_alignment(aligned, run) | _evaluations(problem, ctx, built.posterior, buffers)
    control = float(ctx.needed[1].facts["rms_mean"])
    facts |= {"signal_ratio": float(built.posterior.facts()["rms_mean"]) / control if control > 0 else 0.0}
    facts |= {"dropped_samples": dropped}
    facts |= run_experiments(Material(problem, ctx, config, groups, run, rest, aligned, built))
    return built.posterior.with_facts(facts)


def fit_unaligned(problem: Problem, ctx: RunContext, config: SummaryConfig) -> CompactPosterior:
    """q_d: the same summary of the samples as they come. What attention keys leave open is left out where the groups
    of the network are known."""
    run, dropped = samples_of_run(ctx)
    if config.repair:
        require_repairable(problem.network)
    try:
        groups = groups_of(problem.network)
    except UnsupportedArchitecture:
        groups = None
    built = build(problem, ctx, config, groups, run.stacked(), rest_of(run), UNALIGNED)
    buffers = [run.statistics(index) for index in range(run.support) if run.buffers]
    facts = _inherited(ctx) | _control(_inherited(ctx)) | _evaluations(problem, ctx, built.posterior, buffers)
    return built.posterior.with_facts(facts | {"dropped_samples": dropped})


def fit_prior_control(problem: Problem, ctx: RunContext, config: AlignedConfig) -> CompactPosterior:
    """The same summary, aligned in the same way, of as many draws from the prior: the structure that alignment makes
    of nothing."""
    run, _ = samples_of_run(ctx)
    if config.repair:
        require_repairable(problem.network)
    groups = checked_groups(problem.network, problem)
    aligned = aligned_samples(problem, ctx, config, groups, prior_draws(ctx, run))
    built = build(problem, ctx, config, groups, aligned.samples, rest_of(run), aligned.frame_id)
    facts = {name: ctx.needed[0].facts[name] for name in ("sampler", "prior_std") if name in ctx.needed[0].facts}
    return built.posterior.with_facts(facts | _control({}) | _of_alignment(aligned, run))


def rest_of(run: ChainSamples) -> dict[str, Tensor]:
    """What a forward pass needs besides the sampled parameters, of the first state."""
    return {name: tensor for name, tensor in run.weights(0, 0).items() if name not in run.shapes}


def prior_draws(ctx: RunContext, run: ChainSamples) -> dict[str, Tensor]:
    """As many draws from the prior of the run as it has states, name -> (K, ...): what its target is without data,
    N(0, T s^2)."""
    needed = ctx.needed[0]
    table: Any = needed.config.get("prior_std")
    heat = math.sqrt(float(needed.config.get("temperature", 1.0)))
    generator = ctx.generator("prior", run.states.device)
    drawn = {}
    for name, shape in run.shapes.items():
        scale = float(table[name]) if isinstance(table, Mapping) else float(needed.facts["prior_std"])
        noise = torch.empty(run.support, *shape, device=run.states.device)
        drawn[name] = noise.normal_(generator=generator).mul_(scale * heat)
    return drawn


def _inherited(ctx: RunContext) -> dict[str, Fact]:
    """What the samples' own run says that a reader of the row must know, too."""
    facts = ctx.needed[0].facts
    return {name: facts[name] for name in ("sampler", "prior_std", "posterior", "converged", "marks") if name in facts}


def _control(facts: Mapping[str, Fact]) -> dict[str, Fact]:
    """Marks of a row that is shown and does not compete, behind those that it has."""
    return {"marks": ", ".join([*([str(facts["marks"])] if facts.get("marks") else []), "control"]), "ranked": False}


def _of_alignment(aligned: Aligned, run: ChainSamples) -> dict[str, Fact]:
    """sweeps; spread_first, spread: sum of squared distances to the mean after the first match and at the end;
    transpositions: of the matches to the reference, mean, relative to chance; rhat_weights: largest R-hat of aligned
    weights, of which little can be concluded."""
    each = [transpositions_of(match.permutations).normalised for match in aligned.matches]
    flat = torch.cat([tensor.flatten(1) for tensor in aligned.samples.values()], dim=1)
    chosen = torch.linspace(0, flat.shape[1] - 1, min(flat.shape[1], WEIGHTS)).round().long().unique()
    chains = flat[:, chosen.to(flat.device)].unflatten(0, (run.chains, run.per_chain)).cpu().numpy()
    rhat = weights_rhat(chains)
    facts: dict[str, Fact] = {
        "sweeps": aligned.sweeps,
        "spread_first": aligned.trace[0],
        "spread": aligned.trace[-1],
        "transpositions": sum(each) / len(each),
        "frame": aligned.frame_id,
    }
    return facts | ({"rhat_weights": rhat} if math.isfinite(rhat) else {})


def _evaluations(
    problem: Problem, ctx: RunContext, posterior: CompactPosterior, buffers: Sequence[Mapping[str, Tensor]]
) -> dict[str, Fact]:
    """Validation accuracy and NLL of the mean network and of draws; with running statistics also of the mean network
    with the average of the samples' own. buffers: those of every sample, labelled as the summary is."""
    if problem.val is None:
        return {}
    mean = posterior.mean()
    generator = torch.Generator().manual_seed(ctx.seed_for("validation"))
    found = {
        "mean": evaluate_draws(problem.network, [mean], problem.val),
        "draws": evaluate_draws(problem.network, posterior.draws(problem.draws, generator), problem.val),
    }
    if buffers:
        averaged = {name: torch.stack([one[name] for one in buffers]).mean(0) for name in buffers[0]}
        found["mean_without_reset"] = evaluate_draws(problem.network, [{**mean, **averaged}], problem.val)
    return {key: value for name, one in found.items() for key, value in _columns(name, one).items()}


def _columns(name: str, found: Evaluation) -> dict[str, Fact]:
    return {f"val_accuracy_{name}": found.accuracy, f"val_nll_{name}": found.nll}

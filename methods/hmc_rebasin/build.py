"""From samples in one labelling to the posterior that is stored: moments, low rank, pruning, statistics, repair."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark import Fact, Problem, RunContext
from methods.finetuning.modes import norms
from methods.hmc_rebasin.config import SummaryConfig
from methods.hmc_rebasin.low_rank import low_rank
from methods.hmc_rebasin.posterior import CompactPosterior
from methods.hmc_rebasin.pruning import prune
from methods.hmc_rebasin.repair import average_channels, repair
from methods.hmc_rebasin.statistics import statistics_of_draws, statistics_of_mean
from methods.hmc_rebasin.summary import Summary, key_biases, summarise
from methods.symmetry.groups import PermutationGroups
from methods.symmetry.stack import sample_of

ENOUGH = 50
"""Samples below which a mean network is worse for want of them (arXiv 2401.00611 uses 1,000)."""
log = logging.getLogger("bnnbench")


@dataclass(frozen=True)
class Built:
    """posterior: with its statistics and facts. summary: before rounding and pruning."""

    posterior: CompactPosterior
    summary: Summary


def build(
    problem: Problem,
    ctx: RunContext,
    config: SummaryConfig,
    groups: PermutationGroups | None,
    samples: Mapping[str, Tensor],
    rest: Mapping[str, Tensor],
    frame_id: str,
) -> Built:
    """Summarise samples (name -> (K, ...), the sampled parameters) in one labelling.

    rest: every other parameter and floating-point buffer; running statistics are estimated anew. groups: to leave out
    what attention keys do not determine; None: nothing is left out.
    """
    shapes = {name: tensor.shape[1:] for name, tensor in samples.items()}
    left_out = {} if groups is None else key_biases(groups, shapes)
    left_out = {name: mask.to(samples[name].device) for name, mask in left_out.items()}
    summary = summarise(samples, frame_id, left_out)
    if summary.samples < ENOUGH:
        log.warning("%d samples are few for a mean and a deviation per weight; 50 or more do better.", summary.samples)
    facts = _facts(summary)
    factor: Mapping[str, Tensor] | None = None
    if config.rank > 0:
        rank = min(config.rank, summary.samples - 1)
        found = low_rank(samples, rank, left_out)
        factor, facts = found.factor, facts | {"rank": rank, "rank_explains": found.explained}
    kept = summary.kept()
    if config.prune is not None:
        pruning = prune(summary, config.prune, config.prune_rule, config.prune_scope)
        kept, facts = dict(pruning.masks), facts | {"pruned": pruning.total - pruning.kept}
    posterior = CompactPosterior.of(summary.mu, summary.sigma, rest, kept=kept, factor=factor, encoding=config.encoding)
    posterior = _with_statistics(problem, ctx, posterior)
    if config.repair:
        posterior = _repaired(problem, posterior, samples, rest)
    return Built(posterior.with_facts(facts), summary)


def _facts(summary: Summary) -> dict[str, Fact]:
    """samples, dropped; rms_mean and mean_sigma over all entries that have a distribution; sigma_error, relative
    sampling error of a sigma."""
    counted = summary.kept()
    mu = torch.cat([_chosen(tensor, counted.get(name)) for name, tensor in summary.mu.items()]).double()
    sigma = torch.cat([_chosen(tensor, counted.get(name)) for name, tensor in summary.sigma.items()]).double()
    return {
        "samples": summary.samples,
        "floored_sigmas": summary.floored,
        "rms_mean": float(mu.square().mean().sqrt()),
        "mean_sigma": float(sigma.mean()),
        "sigma_error": (2 * (summary.samples - 1)) ** -0.5,
    }


def _chosen(tensor: Tensor, mask: Tensor | None) -> Tensor:
    return tensor.flatten() if mask is None else tensor[mask]


def _with_statistics(problem: Problem, ctx: RunContext, posterior: CompactPosterior) -> CompactPosterior:
    """Running statistics of the mean network and of draws: those of samples are of other networks."""
    if not norms(problem.network):
        return posterior
    seed, train = ctx.seed_for("statistics"), problem.train
    of_mean = statistics_of_mean(problem.network, posterior, train, seed)
    of_draws = statistics_of_draws(problem.network, posterior, train, seed)
    return posterior.with_statistics(of_mean, of_draws)


def _repaired(
    problem: Problem, posterior: CompactPosterior, samples: Mapping[str, Tensor], rest: Mapping[str, Tensor]
) -> CompactPosterior:
    train = problem.train.first(problem.n_train)
    count = len(next(iter(samples.values())))

    def networks() -> Iterator[dict[str, Tensor]]:
        return ({**rest, **sample_of(samples, index)} for index in range(count))

    goal = average_channels(problem.network, networks(), train)
    return posterior.with_repair(repair(problem.network, posterior.mean(), goal, train))

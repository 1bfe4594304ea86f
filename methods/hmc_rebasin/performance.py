"""What samples and their summaries predict: one sample, the average of all, the mean network, draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from matplotlib.axes import Axes
from torch import Tensor

from benchmark import Fact, Pool
from methods.drawing import COLOURS, REFERENCE, drawn, labelled
from methods.finetuning.statistics import reset_statistics
from methods.hmc_rebasin.inputs import Material
from methods.hmc_rebasin.limits import parameters_of, reset_split
from methods.hmc_rebasin.low_rank import low_rank
from methods.hmc_rebasin.pairs import spread
from methods.hmc_rebasin.posterior import CompactPosterior
from methods.hmc_rebasin.predictions import data_name, data_title
from methods.hmc_rebasin.statistics import statistics_of_draws
from methods.hmc_rebasin.tables import csv_text
from methods.map.evaluation import Evaluation, agreement, log_probs_of, predictive, scores, total_variation
from methods.symmetry.stack import mean_of

SINGLE = 8
"""Samples that are looked at one by one."""
RANKS = (5, 20, 100)
RANK_OF_LARGE = 20
LARGE = 50_000_000
"""Numbers in all samples, K P, beyond which one rank is enough: a hundred directions weigh as much as the samples."""
BATCH_SIZE = 128


@dataclass(frozen=True)
class Scored:
    """key: of facts. networks: forward passes per prediction. agreement, tv: with the average of all samples."""

    key: str
    title: str
    networks: int
    scores: Evaluation
    agreement: float
    tv: float


def performance(material: Material) -> dict[str, Fact]:
    """Accuracy and NLL of the samples, and of summaries before they are rounded, pruned or repaired.

    Draws `performance`. Returns val_accuracy_X and val_nll_X of X = sample (mean over a few), samples (averaged),
    rank_R (draws), unaligned_mean; val_agreement_X and val_tv_X of X = mean, diagonal, with the averaged samples. On
    training data all begin with `train`.
    """
    found = list(_scored(material))
    header = ["predictive", "networks", "accuracy", "nll", "agreement", "tv"]
    rows = [[one.key, one.networks, one.scores.accuracy, one.scores.nll, one.agreement, one.tv] for one in found]
    material.ctx.figure(
        "performance",
        performance_figure(found),
        f"Accuracy and NLL on {data_title(material)} of single samples (mean of {min(SINGLE, material.count)}), of the "
        "average of all samples (dashed), of the mean network, and of draws from the aligned samples' Gaussian without "
        "and with correlated directions; for comparison the mean of samples that are not aligned.",
        csv_text(header, rows),
    )
    data, facts = data_name(material), dict[str, Fact]()
    for one in found:
        if one.key in ("mean", "diagonal"):
            facts |= {f"{data}_agreement_{one.key}": one.agreement, f"{data}_tv_{one.key}": one.tv}
        else:
            facts |= {f"{data}_accuracy_{one.key}": one.scores.accuracy, f"{data}_nll_{one.key}": one.scores.nll}
    return facts


def _scored(material: Material) -> Iterator[Scored]:
    labels = material.split.labels
    single, reference = _of_samples(material)
    each = [_compared("sample", "", 1, log_probs, reference, labels) for log_probs in single]
    mean = Evaluation(fmean(one.scores.nll for one in each), fmean(one.scores.accuracy for one in each))
    alike, tv = fmean(one.agreement for one in each), fmean(one.tv for one in each)
    yield Scored("sample", "single sample", 1, mean, alike, tv)
    yield _compared("samples", "samples, averaged", material.count, reference, reference, labels)
    for key, title, networks, log_probs in _of_summaries(material):
        yield _compared(key, title, networks, log_probs, reference, labels)


def _compared(key: str, title: str, networks: int, log_probs: Tensor, reference: Tensor, labels: Tensor) -> Scored:
    alike, tv = agreement(log_probs, reference), total_variation(log_probs, reference)
    return Scored(key, title, networks, scores(log_probs, labels), alike, tv)


def _of_samples(material: Material) -> tuple[list[Tensor], Tensor]:
    """Log-probabilities of a few, and of the average of all."""
    few, single, pool = set(spread(material.count, SINGLE)), [], Pool()
    for index in range(material.count):
        log_probs = log_probs_of(material.problem.network, material.sample(index), material.split)
        pool.add(log_probs)
        if index in few:
            single.append(log_probs)
    return single, pool.result().log_probs


def _of_summaries(material: Material) -> Iterator[tuple[str, str, int, Tensor]]:
    """Key, title, networks and log-probabilities."""
    problem, summary, split = material.problem, material.built.summary, material.split
    yield "mean", "mean network", 1, _of_mean(material, summary.mu)
    seed = material.ctx.seed_for("performance")
    for rank, posterior in _posteriors(material):
        draws = posterior.draws(problem.draws, torch.Generator().manual_seed(seed))
        log_probs = predictive(problem.network, draws, split)
        key, title = (f"rank_{rank}", f"draws, rank {rank}") if rank else ("diagonal", "draws, diagonal")
        yield key, title, problem.draws, log_probs
    yield "unaligned_mean", "mean of unaligned", 1, _of_mean(material, mean_of(material.run.stacked()))


def _of_mean(material: Material, mean: Mapping[str, Tensor]) -> Tensor:
    problem, seed = material.problem, material.ctx.seed_for("performance")
    weights = {**material.rest, **mean}
    reset = reset_split(problem, seed)
    if reset is not None:
        weights |= reset_statistics(problem.network, weights, reset, BATCH_SIZE, seed)
    return log_probs_of(problem.network, weights, material.split)


def _posteriors(material: Material) -> Iterator[tuple[int, CompactPosterior]]:
    """Rank and Gaussian, rank 0 first. One decomposition serves all ranks: directions come largest first."""
    summary = material.built.summary
    ranks = ranks_of(summary.samples, summary.samples * parameters_of(material))
    factor: Mapping[str, Tensor] = {}
    if ranks:
        factor = low_rank(material.aligned.samples, ranks[-1], summary.left_out).factor
    for rank in (0, *ranks):
        first = {name: tensor[:rank] for name, tensor in factor.items()} if rank else None
        posterior = CompactPosterior.of(
            summary.mu, summary.sigma, material.rest, kept=summary.kept(), factor=first, encoding="fp32"
        )
        yield rank, _with_statistics(material, posterior)


def ranks_of(samples: int, numbers: int) -> list[int]:
    """Those below K; of many numbers a single one."""
    if numbers > LARGE:
        return [min(RANK_OF_LARGE, samples - 1)]
    return [rank for rank in RANKS if rank < samples]


def _with_statistics(material: Material, posterior: CompactPosterior) -> CompactPosterior:
    problem, seed = material.problem, material.ctx.seed_for("performance")
    reset = reset_split(problem, seed)
    if reset is None:
        return posterior
    return posterior.with_statistics({}, statistics_of_draws(problem.network, posterior, reset, seed, BATCH_SIZE))


def performance_figure(found: Sequence[Scored]) -> str:
    """SVG text: a dot per predictive, the averaged samples as a line."""
    places = range(len(found), 0, -1)
    colours = [COLOURS[1] if one.key == "unaligned_mean" else COLOURS[0] for one in found]

    def draw(left: Axes, right: Axes) -> None:
        panels = (
            (left, "accuracy (%)", [100 * one.scores.accuracy for one in found]),
            (right, "NLL (nats)", [one.scores.nll for one in found]),
        )
        for axes, title, values in panels:
            reference = next(value for one, value in zip(found, values, strict=True) if one.key == "samples")
            axes.axvline(reference, color=REFERENCE, ls="--", lw=0.8)
            axes.scatter(values, places, s=24, c=colours, zorder=3)
            axes.grid(axis="y", color="#dddddd", lw=0.5)
            axes.set_ylim(0.5, len(found) + 0.5)
            labelled(axes, title, "", legend=False)
        left.set_yticks(places, [one.title for one in found])
        right.set_yticks(places, [""] * len(found))

    return drawn(draw)

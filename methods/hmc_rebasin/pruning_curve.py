"""Accuracy and NLL against the share of weights that is kept, by rules that rank weights by their mean and sigma.

Xiao, Liu, Bamler (arXiv 2401.00611): deviations from aligned samples also prune networks that are no part of a
posterior, which members stand for here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from torch import Tensor

from benchmark import Fact, Split
from methods.drawing import COLOURS, drawn, labelled
from methods.finetuning.statistics import reset_statistics
from methods.hmc_rebasin.choices import Rule
from methods.hmc_rebasin.inputs import Material
from methods.hmc_rebasin.limits import RESET_OF_MANY, reset_split
from methods.hmc_rebasin.pairs import spread
from methods.hmc_rebasin.predictions import data_name, data_title
from methods.hmc_rebasin.pruning import CURVE, Pruning, prune
from methods.hmc_rebasin.tables import csv_text
from methods.map.evaluation import Evaluation, predictive, scores
from methods.symmetry.matched import apply

RULES: dict[Rule, str] = {"snr": "|mu| / sigma", "sigma": "sigma", "abs_mu": "|mu|"}
"""Rule -> what it ranks by."""
HALF = 50
MEMBERS, MEMBERS_WITH_STATISTICS = 5, 2
"""Samples whose average is pruned, too; fewer where each needs running statistics of its own at every point."""
BATCH_SIZE = 128


@dataclass(frozen=True)
class Point:
    """Of the mean network, and of the average of a few members, with the same entries set to 0."""

    rule: Rule
    percent: int
    kept: int
    mean: Evaluation
    members: Evaluation


def pruning_curve(material: Material) -> dict[str, Fact]:
    """Pruning the mean network (before rounding) and aligned samples along `CURVE`, with running statistics of their
    own.

    Draws `pruning`. Returns val_accuracy_half_RULE: of the mean network with half of its weights (`train_...` on
    training data).
    """
    reset = reset_split(material.problem, material.ctx.seed_for("pruning"), RESET_OF_MANY)
    members = _members(material, MEMBERS if reset is None else MEMBERS_WITH_STATISTICS)
    points = [_point(material, members, reset, rule, percent) for rule in RULES for percent in CURVE]
    header = ["rule", "percent", "kept", "accuracy_mean", "nll_mean", "accuracy_members", "nll_members"]
    rows = [
        [one.rule, one.percent, one.kept, one.mean.accuracy, one.mean.nll, one.members.accuracy, one.members.nll]
        for one in points
    ]
    material.ctx.figure(
        "pruning",
        pruning_figure(points),
        f"Accuracy and NLL on {data_title(material)} of the mean network (lines) and of the average of {len(members)} "
        "aligned samples (dotted), all but the highest-ranked weights set to 0. Ranked by small sigma, large |mu|, or "
        "large |mu| / sigma.",
        csv_text(header, rows),
    )
    data = data_name(material)
    return {f"{data}_accuracy_half_{one.rule}": one.mean.accuracy for one in points if one.percent == HALF}


def _members(material: Material, most: int) -> list[dict[str, Tensor]]:
    """A few samples spread over the run, in the frame of the summary, with their own running statistics."""
    chosen = spread(material.count, most)
    return [apply(material.groups, material.aligned.matches[index], material.sample(index)) for index in chosen]


def _point(
    material: Material, members: Sequence[Mapping[str, Tensor]], reset: Split | None, rule: Rule, percent: int
) -> Point:
    summary, config = material.built.summary, material.config
    pruning = prune(summary, percent, rule, config.prune_scope)
    mean = _evaluated(material, [{**material.rest, **summary.mu}], pruning, reset)
    return Point(rule, percent, pruning.kept, mean, _evaluated(material, members, pruning, reset))


def _evaluated(
    material: Material, networks: Sequence[Mapping[str, Tensor]], pruning: Pruning, reset: Split | None
) -> Evaluation:
    """Of the average of networks in the summary's frame, pruned alike."""
    network, seed = material.problem.network, material.ctx.seed_for("pruning")

    def pruned(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        left = pruning.applied(weights, material.aligned.frame_id)
        return left if reset is None else left | reset_statistics(network, left, reset, BATCH_SIZE, seed)

    return scores(predictive(network, map(pruned, networks), material.split), material.split.labels)


def pruning_figure(points: Sequence[Point]) -> str:
    """SVG text: accuracy and NLL against per cent kept."""

    def draw(left: Axes, right: Axes) -> None:
        for rule, colour in zip(RULES, COLOURS, strict=False):
            own = [one for one in points if one.rule == rule]
            percent = [one.percent for one in own]
            for axes, of_mean, of_members in (
                (left, [100 * one.mean.accuracy for one in own], [100 * one.members.accuracy for one in own]),
                (right, [one.mean.nll for one in own], [one.members.nll for one in own]),
            ):
                axes.plot(percent, of_mean, "o-", ms=3, lw=1.1, color=colour, label=f"by {RULES[rule]}")
                axes.plot(percent, of_members, ":", lw=1.4, color=colour)
        labelled(left, "weights kept (%)", "accuracy (%)")
        labelled(right, "weights kept (%)", "NLL (nats)", legend=False)

    return drawn(draw)

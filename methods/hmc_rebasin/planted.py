"""Whether matching finds permutations that are known: two networks that start as permuted copies, trained apart.

Xiao, Liu, Bamler (arXiv 2401.00611): training hardly changes the number of transpositions (NoT) that was planted, and
the barrier between both networks grows with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmark import Fact, copy_of, load_into, require_finite, weights_of
from methods.drawing import COLOURS, REFERENCE, drawn, labelled
from methods.finetuning.modes import only_norms_training
from methods.hmc_rebasin.alignment import matching_of
from methods.hmc_rebasin.inputs import Material
from methods.hmc_rebasin.limits import is_large, reset_split
from methods.hmc_rebasin.pairs import spread
from methods.hmc_rebasin.predictions import data_title
from methods.hmc_rebasin.tables import csv_text
from methods.optimisers import Group, Sgd
from methods.symmetry.barrier import barrier
from methods.symmetry.groups import composed
from methods.symmetry.match import match
from methods.symmetry.matched import apply
from methods.symmetry.transpositions import Chance, chance, planted_permutation, transpositions_of

VALUES, VALUES_OF_LARGE = 8, 2
"""Numbers of transpositions that are planted, each with a training of its own."""
EPOCHS, BATCH_SIZE, RATE, MOMENTUM = 50, 64, 1e-3, 0.9
"""Of the paper's study, nominal epochs."""

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Pair:
    """One planted number of transpositions. found_*: NoT of the match before and after training. undone: whether the
    match takes the very permutation back. Midpoint excess of the loss in nats before and after training, and after
    matching the trained networks."""

    planted: int
    found_start: int
    found: int
    undone: bool
    start: float
    raw: float
    matched: float


def planted_transpositions(material: Material) -> dict[str, Fact]:
    """Net 1 starts as a permuted copy of net 0, both are trained by SGD with orders of their own, then matched.

    Draws `planted`. Returns planted_recovered: share of the values that matching finds exactly; planted_barrier_raw
    and planted_barrier_matched: midpoint excess of the loss at the largest value, in nats.
    """
    pairs = list(_pairs(material))
    header = ["planted", "found_start", "found", "undone", "midpoint_start", "midpoint_raw", "midpoint_matched"]
    rows = [
        [one.planted, one.found_start, one.found, int(one.undone), one.start, one.raw, one.matched] for one in pairs
    ]
    expected = chance(*material.groups.sizes.values())
    material.ctx.figure(
        "planted",
        planted_figure(pairs, expected),
        "A network and a permuted copy of it, trained apart. Left: transpositions found by matching against those that "
        f"were planted; dashed: the mean of random permutations, {expected.mean:.4g}. Right: excess of the "
        f"cross-entropy on {data_title(material)} half-way between both networks.",
        csv_text(header, rows),
    )
    last = pairs[-1]
    return {
        "planted_recovered": sum(one.found == one.planted for one in pairs) / len(pairs),
        "planted_barrier_raw": last.raw,
        "planted_barrier_matched": last.matched,
    }


def shares(count: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """`count` transpositions over groups of `sizes` units in proportion to n - 1, the most that a group can have;
    what rounding leaves goes to the largest remainders.

    Raises:
        ValueError: more than all groups can have.
    """
    room = {group: size - 1 for group, size in sizes.items()}
    total = sum(room.values())
    if not 0 <= count <= total:
        raise ValueError(f"{count} transpositions in groups of {list(sizes.values())} units; legal: 0..{total}")
    share = {group: count * own // total if total else 0 for group, own in room.items()}
    by_remainder = sorted(room, key=lambda group: -(count * room[group] % total) if total else 0)
    for group in by_remainder[: count - sum(share.values())]:
        share[group] += 1
    return share


def planted_values(sizes: Mapping[str, int], most: int) -> list[int]:
    """Evenly spaced from 1 to the largest NoT of all groups together, at most `most`; empty if nothing can move."""
    return [1 + index for index in spread(sum(size - 1 for size in sizes.values()), most)]


def _pairs(material: Material) -> Iterator[Pair]:
    ctx, groups = material.ctx, material.groups
    values = planted_values(groups.sizes, VALUES_OF_LARGE if is_large(material) else VALUES)
    if not values:
        raise ValueError("no group of the network has two units: nothing can be planted. Leave the experiment out.")
    start = copy_of(weights_of(material.problem.new_network(ctx.seed_for("planted"))))
    trained = _trained(material, start, 0)
    for number, count in enumerate(values, start=1):
        generator = torch.Generator().manual_seed(ctx.seed_for("planted", count))
        share = shares(count, groups.sizes)
        permutations = {
            group: planted_permutation(size, share[group], generator) for group, size in groups.sizes.items()
        }
        copied = groups.permuted(start, permutations)
        yield _compared(material, count, permutations, (start, copied), (trained, _trained(material, copied, number)))
        ctx.progress(number, len(values))


def _compared(
    material: Material,
    count: int,
    permutations: Mapping[str, Tensor],
    before: tuple[Weights, Weights],
    after: tuple[Weights, Weights],
) -> Pair:
    groups = material.groups
    how = matching_of(material.problem, material.ctx, material.config, groups)
    first = match(groups, *before, how)
    found = match(groups, *after, how)
    undone = composed(permutations, found.permutations)
    return Pair(
        count,
        transpositions_of(first.permutations).total,
        transpositions_of(found.permutations).total,
        all(torch.equal(perm, torch.arange(len(perm))) for perm in undone.values()),
        _midpoint(material, *before),
        _midpoint(material, *after),
        _midpoint(material, after[0], apply(groups, found, after[1])),
    )


def _midpoint(material: Material, a: Weights, b: Weights) -> float:
    problem, seed = material.problem, material.ctx.seed_for("planted")
    reset = reset_split(problem, seed)
    found = barrier(problem.network, a, b, material.split, 3, reset=reset, seed=seed)
    require_finite(found.midpoint_loss, "the loss between two planted networks", "Leave 'planted' out of experiments.")
    return found.midpoint_loss


def _trained(material: Material, start: Mapping[str, Tensor], number: int) -> Weights:
    """Network `number` after training from `start` without augmentation; its number alone decides the order."""
    problem, ctx = material.problem, material.ctx
    network = problem.new_network(ctx.seed_for("planted"))
    load_into(network, start)
    optimiser = Sgd([Group(list(network.parameters()))], momentum=MOMENTUM, nesterov=False)
    order = torch.Generator().manual_seed(ctx.seed_for("planted order", number))
    plain = problem.train.first(problem.n_train)
    with only_norms_training(network, True):
        for _ in range(problem.epochs(EPOCHS)):
            for inputs, labels in plain.training_batches(BATCH_SIZE, order):
                cross_entropy(network(inputs), labels).backward()
                optimiser.step(RATE)
    return copy_of(weights_of(network))


def planted_figure(pairs: Sequence[Pair], expected: Chance) -> str:
    """SVG text: what was found, and the barriers, against what was planted."""
    planted = [one.planted for one in pairs]

    def draw(left: Axes, right: Axes) -> None:
        left.plot([0, planted[-1]], [0, planted[-1]], color=REFERENCE, lw=0.8)
        left.axhline(expected.mean, color=REFERENCE, ls="--", lw=0.8)
        left.plot(planted, [one.found_start for one in pairs], "o", ms=7, mfc="none", color=COLOURS[0], label="start")
        left.plot(planted, [one.found for one in pairs], ".", color=COLOURS[1], label="trained")
        left.plot([], [], ".", color=COLOURS[2], label="trained and matched")  # the legend of both panels
        labelled(left, "transpositions planted", "transpositions found")
        right.axhline(0, color=REFERENCE, ls="--", lw=0.8)
        sides = [one.start for one in pairs], [one.raw for one in pairs], [one.matched for one in pairs]
        for values, colour in zip(sides, COLOURS, strict=False):
            right.plot(planted, values, "o-", ms=3.5, lw=1, color=colour)
        labelled(right, "transpositions planted", "excess of the loss half-way (nats)", legend=False)

    return drawn(draw)

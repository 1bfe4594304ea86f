"""Chains whose states are permuted copies of one trained network, and what a run makes of them."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from small_problems import SHAPE, problem_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmark import Context, NeededRun, PointMass, Problem, Weights, weights_of
from methods.hmc.posterior import ChainSamples
from methods.hmc_rebasin.alignment import aligned_samples, checked_groups
from methods.hmc_rebasin.build import build
from methods.hmc_rebasin.config import RebasinConfig
from methods.hmc_rebasin.fit import rest_of
from methods.hmc_rebasin.inputs import Material
from methods.symmetry.discover import groups_of
from methods.symmetry.groups import Permutations
from tasks.networks import mlp, wrn

UNITS = 12


def perceptron(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return mlp.build((UNITS,), "relu", SHAPE, 3)


def normed(seed: int) -> nn.Module:
    """With running statistics, and several groups of units."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return wrn.WideResNet(10, 1, 1, 3)


@functools.cache
def trained(make: Callable[[int], nn.Module], steps: int) -> Problem:
    """A problem whose network has learned it."""
    net = make(0)
    problem = problem_of(net, make, n=150, val=90)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    net.train()
    for _ in range(steps):
        optimiser.zero_grad()
        cross_entropy(net(problem.train.inputs), problem.train.labels).backward()
        optimiser.step()
    net.eval()
    return problem


def digits_like() -> Problem:
    return trained(perceptron, 200)


def with_norms() -> Problem:
    return trained(normed, 40)


def permuted_copies(
    problem: Problem, count: int, noise: float = 0.02, seed: int = 0
) -> tuple[list[Permutations], list[dict[str, Tensor]]]:
    """The network's weights plus noise, relabelled, buffers along; the first one as it is."""
    groups, own = groups_of(problem.network), weights_of(problem.network)
    parameters = {name for name, _ in problem.network.named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    permutations = [groups.identity(), *(groups.random(generator) for _ in range(count - 1))]
    copies = []
    for permutation in permutations:
        noisy = {
            name: tensor + noise * torch.randn(tensor.shape, generator=generator) if name in parameters else tensor
            for name, tensor in own.items()
        }
        copies.append(groups.permuted(noisy, permutation))
    return permutations, copies


def chains_of(problem: Problem, copies: Sequence[Weights], chains: int = 1) -> ChainSamples:
    """The copies as the states of chains, one chain after the other."""
    parameters = [name for name, _ in problem.network.named_parameters()]
    flat = torch.stack([torch.cat([copy[name].flatten() for name in parameters]) for copy in copies])
    shapes = {name: copies[0][name].shape for name in parameters}
    size = (chains, len(copies) // chains)
    buffers = {
        name: torch.stack([copy[name] for copy in copies]).view(*size, *copies[0][name].shape)
        for name in copies[0]
        if name not in parameters
    }
    return ChainSamples(flat.view(*size, -1), shapes, buffers, {})


def material_of(
    folder: Path,
    problem: Problem,
    run: ChainSamples,
    compared: Sequence[NeededRun] = (),
    **settings: Any,
) -> Material:
    """As a run makes it."""
    config = RebasinConfig(**settings)
    needed = [NeededRun("hmc", {}, {}, run), NeededRun("hmc_prior_control", {}, {}, run), *compared]
    ctx = Context(folder, ("made_up", "small", "hmc_rebasin", 0), needed=needed)
    groups, rest = checked_groups(problem.network, problem), rest_of(run)
    aligned = aligned_samples(problem, ctx, config, groups, run.stacked())
    built = build(problem, ctx, config, groups, aligned.samples, rest, aligned.frame_id)
    return Material(problem, ctx, config, groups, run, rest, aligned, built)


def point(problem: Problem) -> NeededRun:
    """A run whose posterior has no spread."""
    return NeededRun("map", {}, {}, PointMass(weights_of(problem.network)))


def numbers(folder: Path, name: str) -> list[dict[str, str]]:
    """The data of a figure that exists; all numbers are finite."""
    assert "<desc" in (folder / "figures" / f"{name}.svg").read_text()
    rows = list(csv.DictReader(io.StringIO((folder / "figures" / f"{name}.csv").read_text())))
    assert not {"nan", "inf", "-inf"} & {cell for row in rows for cell in row.values()}
    return rows

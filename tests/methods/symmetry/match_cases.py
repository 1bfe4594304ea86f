"""Oracle cases of matching, networks of known groups, and planted pairs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import weights_of
from methods.symmetry.discover import groups_of
from methods.symmetry.groups import PermutationGroups, Permutations
from methods.symmetry.matched import Match, apply
from tasks.networks import deit, resnet, wrn

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "matching_oracles.json").read_text())["cases"]


def oracle(kind: str) -> list[dict[str, Any]]:
    """All cases of one kind."""
    found = [case for case in CASES if case["kind"] == kind]
    assert found
    return found


def tensors(values: Mapping[str, Any]) -> dict[str, Tensor]:
    """float64."""
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def one_hidden(units: int) -> PermutationGroups:
    """Groups of logits = W2 relu(W1 x + b1) + b2."""
    return PermutationGroups({"P": units}, {"W1": ("P", None), "b1": ("P",), "W2": (None, "P"), "b2": (None,)})


def hidden_layers(*widths: int) -> PermutationGroups:
    """Groups P_0, P_1, ... of a multilayer perceptron with parameters layer0.weight, layer0.bias, ..."""
    groups = [None, *(f"P_{index}" for index in range(len(widths))), None]
    axes: dict[str, tuple[str | None, ...]] = {}
    for index, (before, after) in enumerate(itertools.pairwise(groups)):
        axes |= {f"layer{index}.weight": (after, before), f"layer{index}.bias": (after,)}
    return PermutationGroups({f"P_{index}": width for index, width in enumerate(widths)}, axes)


def random_weights_of(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


def perceptron(seed: int, *widths: int) -> dict[str, Tensor]:
    """Standard normal weights of `hidden_layers(*widths[1:-1])`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        shapes |= {f"layer{index}.weight": (outputs, inputs), f"layer{index}.bias": (outputs,)}
    return random_weights_of(shapes, seed)


def network_of(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    built = {
        "resnet20": lambda: resnet.BUILDERS["resnet20"](3, 10),
        "resnet18": lambda: resnet.BUILDERS["resnet18"](3, 10),
        "wrn-10-1": lambda: wrn.WideResNet(10, 1, 3, 10),
        "wrn-16-4": lambda: wrn.WideResNet(16, 4, 3, 10),
        "wrn-28-10": lambda: wrn.WideResNet(28, 10, 3, 10),
        "deit-micro": lambda: deit.build("deit-micro", (1, 8, 8), 10),
        "deit_tiny": lambda: deit.build("deit_tiny", (3, 32, 32), 10),
    }
    return built[name]()


def groups_and_weights(name: str, seed: int = 0) -> tuple[PermutationGroups, dict[str, Tensor]]:
    network = network_of(name, seed)
    return groups_of(network), weights_of(network)


def planted(
    groups: PermutationGroups, weights: Mapping[str, Tensor], noise: float, seed: int = 7
) -> tuple[Permutations, dict[str, Tensor]]:
    """Random permutations, and the weights relabelled by them plus noise of `noise` standard deviations per tensor."""
    generator = torch.Generator().manual_seed(seed)
    permutations = groups.random(generator)
    moved = {}
    for name, tensor in groups.permuted(weights, permutations).items():
        spread = tensor.double().std(correction=0).to(tensor.dtype)
        moved[name] = tensor + noise * spread * torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
    return permutations, moved


def undone(found: Match, permutations: Permutations) -> bool:
    """Whether a match takes all planted permutations back."""
    return all(
        torch.equal(perm[found.permutations[group]], torch.arange(len(perm))) for group, perm in permutations.items()
    )


def inner_product(groups: PermutationGroups, a: Mapping[str, Tensor], b: Mapping[str, Tensor], found: Match) -> float:
    """The objective as it is defined, in float64, for networks without running statistics or attention."""
    there = apply(groups, found, b)
    return sum(float((a[name].double() * there[name].double()).sum()) for name in a if any(groups.axes[name]))


def brute_force(groups: PermutationGroups, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """The largest objective over all permutations of all groups."""
    every = [
        [(group, torch.tensor(order)) for order in itertools.permutations(range(n))]
        for group, n in groups.sizes.items()
    ]
    return max(inner_product(groups, a, b, Match(dict(chosen), 0.0)) for chosen in itertools.product(*every))

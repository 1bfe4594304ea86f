"""Running a network with members in its last block: everything before it once per example, the block once per row.

Hooks expand the batch where it enters the block and keep the features where it leaves; they live for one forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from benchmark import ConfigError, forward
from methods.last_block_ensemble.features import variance
from methods.last_block_ensemble.members import ByMember, Layout

ROWS = 1024
"""Rows of the last block at a time when features are scored: bounds memory."""


@dataclass(frozen=True)
class Place:
    """Paths of two modules: the block begins at the input of `entrance` (the network itself: "") and its features are
    the output of `exit`."""

    entrance: str
    exit: str


def run_members(
    network: nn.Module,
    place: Place,
    shared: Mapping[str, Tensor],
    stacks: Mapping[str, Tensor],
    inputs: Tensor,
    layout: Layout,
) -> tuple[Tensor, Tensor]:
    """Logits (E, K) and features (E, ...) of the layout's rows, in the order they were requested in.

    shared: weights of all members; stacks: name -> (C, *shape), the copies; inputs (n, C, H, W). Differentiable in all
    of them. The network is left as it was.

    Raises:
        ConfigError: the features do not have one row per example.
    """
    with _expanding(network, place, layout) as kept:
        logits = forward(network, {**shared, **ByMember(stacks, layout).weights()}, inputs)
    features = kept.get("features")
    if not isinstance(features, Tensor) or features.shape[:1] != layout.sources.shape:
        raise ConfigError(f"module '{place.exit}' does not return one tensor with a row per example")
    return logits[layout.places], features[layout.places]


def feature_variance(
    network: nn.Module, place: Place, shared: Mapping[str, Tensor], stacks: Mapping[str, Tensor], inputs: Tensor
) -> Tensor:
    """Variance over the C members of `stacks` of the features of each of `inputs` (n, C, H, W), averaged over the
    features' entries: float32 (n,), differentiable in `inputs`. At most `ROWS` rows in the block at a time."""
    members = len(next(iter(stacks.values())))
    scores = []
    for part in inputs.split(max(1, ROWS // members)):
        layout = Layout.all_pairs(len(part), members, inputs.device)
        _, features = run_members(network, place, shared, stacks, part, layout)
        scores.append(variance(features.unflatten(0, (members, len(part)))))
    return torch.cat(scores)


@contextmanager
def features_of(network: nn.Module, path: str) -> Iterator[dict[str, Any]]:
    """Inside, the last output of module `path` is kept under "features"."""
    kept: dict[str, Any] = {}
    hook = network.get_submodule(path).register_forward_hook(lambda module, args, output: kept.update(features=output))
    try:
        yield kept
    finally:
        hook.remove()


@contextmanager
def _expanding(network: nn.Module, place: Place, layout: Layout) -> Iterator[dict[str, Any]]:
    entered = False

    def expand(module: nn.Module, args: Any, kwargs: Any) -> Any:
        nonlocal entered
        if entered:  # a module that runs twice: its second input is expanded already
            return None
        entered = True
        examples = _leading(args, kwargs)
        return tree_map(
            lambda value: value[layout.sources] if isinstance(value, Tensor) and value.shape[:1] == examples else value,
            (args, kwargs),
        )

    with features_of(network, place.exit) as kept:
        hook = network.get_submodule(place.entrance).register_forward_pre_hook(expand, with_kwargs=True)
        try:
            yield kept
        finally:
            hook.remove()


def _leading(args: Any, kwargs: Any) -> torch.Size:
    """Leading dimension of the first tensor, of which the others may be companions (masks, skipped inputs)."""
    found: list[torch.Size] = []
    tree_map(lambda value: found.append(value.shape[:1]) if isinstance(value, Tensor) else None, (args, kwargs))
    return found[0] if found else torch.Size()

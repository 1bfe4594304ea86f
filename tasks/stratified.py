"""The validation split of data sets that are published with training and test images only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from benchmark import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


def each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names in one order, so that two spellings of a setting are one run.

    Raises:
        ValueError: one is there twice.
    """
    if len(set(names)) < len(names):
        raise ValueError(f"a data set is named twice in {', '.join(names)}; name each once")
    return tuple(sorted(names))


def check_val_per_class(task: str, val_per_class: int, counts: Sequence[int]) -> None:
    """Refuse a validation split that leaves a class without training images; counts: training images per class.

    Raises:
        ConfigError: names the class, how many images it has and the largest legal number.
    """
    fewest = min(counts)
    if val_per_class and val_per_class >= fewest:
        raise ConfigError(
            f"task '{task}': val_per_class: {val_per_class} leaves no training image of class {counts.index(fewest)}, "
            f"which has {fewest:,} on this disk.\n  legal: 0 (no validation split) to {max(0, fewest - 1)}"
        )


def split_places(task: str, labels: Tensor, val_per_class: int, split: Literal["train", "val"]) -> Tensor:
    """Places in the training file, int64 and ascending, of its training or its validation part.

    Of every class the `val_per_class` images of lowest rank are validation. The rank of image i is the SHA-256 of the
    text "TASK i": as good as a random order, the same in every run and free of any library's random generator.
    labels: int64 (n,).
    """
    import torch

    ranks = [hashlib.sha256(f"{task} {index}".encode()).digest() for index in range(len(labels))]
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(index)
    validation = torch.zeros(len(labels), dtype=torch.bool)
    for own in members.values():
        own.sort(key=ranks.__getitem__)
        validation[own[:val_per_class]] = True
    return (validation if split == "val" else ~validation).nonzero().flatten()

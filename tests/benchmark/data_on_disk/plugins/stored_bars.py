"""A task that reads a file below the data root and can be corrupted, and a network that can start from a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmark import (
    Config,
    DataSet,
    Method,
    MissingData,
    NetworkFamily,
    Pixels,
    PointMass,
    Posterior,
    Problem,
    RunContext,
    Split,
    SplitName,
    Task,
    TaskInfo,
    Weights,
    data_root,
    digest_of,
    fingerprint_of,
    weights_of,
)


class File(DataSet):
    """One file of bytes."""

    source, size = "made by a test", 1000
    manual = "Copy it there by hand."

    def __init__(self, name: str) -> None:
        self.name, self.title = name, f"the file of {name}"

    def folder(self, root: Path) -> Path:
        return root / self.name

    def file(self, root: Path) -> Path:
        return self.folder(root) / "pixels.npy"

    def problems(self, root: Path) -> Sequence[str]:
        return [] if self.file(root).is_file() else [f"{self.file(root)} is missing"]

    def verify(self, root: Path, say: Callable[[str], None]) -> Sequence[str]:
        return self.problems(root)

    def prepare(self, root: Path, say: Callable[[str], None]) -> None:
        raise MissingData(self.manual)

    def fingerprint(self, root: Path) -> str:
        return digest_of(self.file(root))


BARS, CORRUPTED, WEIGHTS = File("bars"), File("bars-c"), File("bars-weights")


class StoredBars(Task):
    """3x3 images of a bright row or column; the file holds the noise of all splits."""

    name = "stored_bars"

    def info(self, config: Any) -> TaskInfo:
        return TaskInfo((1, 3, 3), 6, 120, 30, 60)

    def data(self, config: Any) -> Sequence[DataSet]:
        return (BARS,)

    def corruption_data(self, config: Any) -> Sequence[DataSet]:
        return (CORRUPTED,)

    def fingerprint(self, config: Any) -> str:
        return fingerprint_of(self.data(config), "stored bars")

    def load(self, config: Any, split: SplitName) -> Split:
        first, n = {"train": (0, 120), "val": (120, 30), "test": (150, 60)}[split]
        noise = torch.from_numpy(np.load(BARS.file(data_root())))[first : first + n]
        labels = torch.arange(n) % 6
        images = torch.zeros(n, 3, 3, dtype=torch.uint8)
        images[torch.arange(n)[labels < 3], labels[labels < 3]] = 120
        images[torch.arange(n)[labels >= 3], :, labels[labels >= 3] - 3] = 120
        return Split(Pixels((images + noise)[:, None], [0.3], [0.25]), labels)

    def corruptions(self, config: Any) -> Sequence[str]:
        return ("dark", "noise")

    def corrupted(self, config: Any, corruption: str, severity: int) -> Split:
        test = self.load(config, "test").first(40)
        if corruption == "dark":
            return Split(test.inputs * (1 - 0.15 * severity), test.labels)
        noise = torch.from_numpy(np.load(CORRUPTED.file(data_root())))[:40, None].float() / 32
        return Split(test.inputs + severity * (noise - 2), test.labels)


class BarNetConfig(Config):
    """Where the weights come from."""

    weights: str = ""


class StoredBarNet(NetworkFamily):
    """One hidden layer; `weights: file` starts from the first layer in a file."""

    name = "storednet"
    forms = "storednet"
    Config = BarNetConfig

    def check(self, network: str) -> None:
        pass

    def build(self, network: str, input_shape: tuple[int, int, int], n_classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, n_classes))

    def data(self, network: str, config: BarNetConfig, input_shape: tuple[int, int, int]) -> Sequence[DataSet]:
        return (WEIGHTS,) if config.weights else ()

    def settled(self, network: str, config: BarNetConfig, input_shape: tuple[int, int, int]) -> BarNetConfig:
        if config.weights != "file":
            return config
        return BarNetConfig(weights=WEIGHTS.fingerprint(data_root())[:8])

    def start(self, network: str, config: BarNetConfig, built: nn.Module) -> Weights:
        if not config.weights:
            return {}
        return {"1.weight": torch.from_numpy(np.load(WEIGHTS.file(data_root())))}


class AsItStarts(Method):
    """The network as it is handed over."""

    name = "as_it_starts"

    def fit(self, problem: Problem, ctx: RunContext, config: Any) -> Posterior:
        return PointMass(weights_of(problem.network))

    def posterior_type(self) -> type[Posterior]:
        return PointMass

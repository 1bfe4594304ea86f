"""Images per second of the stream beside a plain torchvision loop on the same files. Prints what it measures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from jpeg_folders import quiet, write_imagenet
from paired_timing import ratios, threads
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from benchmark import Split, normalised
from tasks.image_folder.cache import ImageCache
from tasks.image_folder.stream import MEAN, STD
from tasks.imagenet import ORIGINAL, ImageNetConfig, ImageNetTask

pytestmark = pytest.mark.benchmarks

BATCH, TARGET, ROUNDS = 32, 0.97, 9


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("imagenet")
    write_imagenet(root, train=64, val=2, sizes=[(500, 375), (375, 500), (500, 333)])
    ORIGINAL.prepare(root, quiet)
    ImageCache(ORIGINAL, 256).prepare(root, quiet)
    return root


def our_epoch(root: Path, source: str) -> tuple[Callable[[], None], int]:
    found = ImageNetTask().load(ImageNetConfig(val_per_class=0, source=source), "train")
    assert isinstance(found, Split)
    generator = torch.Generator().manual_seed(0)

    def epoch() -> None:
        for _ in found.training_batches(BATCH, generator):
            pass

    return epoch, len(found)


def plain_epoch(root: Path, workers: int) -> Callable[[], None]:
    """ImageFolder with torchvision's own decoder and transforms; bytes to the training process, normalised there."""
    transform = v2.Compose([v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip()])
    folder = ImageFolder(
        root / "imagenet" / "train", transform, loader=lambda path: decode_image(path, mode=ImageReadMode.RGB)
    )
    loader = DataLoader(folder, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

    def epoch() -> None:
        for pixels, _ in loader:
            normalised(pixels, MEAN, STD)

    return epoch


@pytest.mark.parametrize("workers", [0, 2])
def test_the_stream_is_as_fast_as_a_plain_loop_and_the_cache_faster(
    root: Path, workers: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BNNBENCH_DATA", str(root))
    monkeypatch.setenv("BNNBENCH_LOADERS", str(workers))
    stream, n = our_epoch(root, "files")
    cache, _ = our_epoch(root, "cache")
    with threads(1):
        seconds, found = ratios({"stream": stream, "plain": plain_epoch(root, workers), "cache": cache}, ROUNDS)
    print(
        f"{workers} processes: stream {n / seconds:.0f} images/s, {found['plain']:.3f} of the plain loop's rate; "
        f"cache {n / seconds / found['cache']:.0f} images/s"
    )
    assert found["plain"] >= TARGET
    assert found["cache"] < 1

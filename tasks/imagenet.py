"""ImageNet (ILSVRC 2012), or any folders of images that are laid out like it.

`train/` holds training and validation data, `val/` is the test set, as in the papers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmark import ConfigError, DataSet, Resources, SplitName, Task, TaskInfo, data_root, fingerprint_of
from tasks.image_folder.cache import ImageCache
from tasks.image_folder.originals import ImageNet, OodFolder
from tasks.image_folder.settings import NAME, ImageNetConfig
from tasks.image_folder.shifted import SEVERITIES, ImageNetC, part_name, shifted_rows
from tasks.published_corruptions import CORRUPTIONS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from benchmark import Split
    from tasks.image_folder.decode import Images
    from tasks.image_folder.stream import ImageStream
    from tasks.image_folder.transforms import Augmentation, View

ORIGINAL = ImageNet()


class ImageNetTask(Task):
    """Classify photographs. Number of classes and examples are what the folders hold: 1000 for ImageNet."""

    name = "imagenet"
    version = 1
    Config = ImageNetConfig
    preload = ("torchvision.io", "torchvision.transforms.v2")

    def data(self, config: ImageNetConfig) -> Sequence[DataSet]:
        cache = [ImageCache(ORIGINAL, config.cache_side)] if config.source == "cache" else []
        return [ORIGINAL, *cache, *(OodFolder(name) for name in config.ood)]

    def data_set(self, name: str) -> DataSet | None:
        """`imagenetc`, `imagenet-cache-SIDE` and `ood-NAME`."""
        if name == ImageNetC().name:
            return ImageNetC()
        if cache := re.fullmatch(r"imagenet-cache-([1-9][0-9]{1,3})", name):
            return ImageCache(ORIGINAL, int(cache[1]))
        folder = re.fullmatch(f"ood-({NAME})", name)
        return OodFolder(folder[1]) if folder else None

    def resources(self, config: ImageNetConfig) -> Resources:
        """The CPUs decode."""
        return Resources(gpus=1, cpus=12, memory_gib=48)

    def info(self, config: ImageNetConfig) -> TaskInfo:
        """From the headers of the indexes.

        Raises:
            ConfigError: `val_per_class` leaves a class nothing to train on.
        """
        from tasks.image_folder.held_out import check_held_out

        root, side = data_root(), config.image_size
        train, test = (ORIGINAL.header(root, part) for part in ("train", "val"))
        check_held_out(train, config.val_per_class)
        n_val = config.val_per_class * len(train.classes)
        return TaskInfo((3, side, side), len(train.classes), sum(train.counts) - n_val, n_val, sum(test.counts))

    def fingerprint(self, config: ImageNetConfig) -> str:
        views = f"image_size {config.image_size} test_resize {config.resized} {config.interpolation}"
        return fingerprint_of(self.data(config), f"val_per_class {config.val_per_class} {views}")

    def load(self, config: ImageNetConfig, split: SplitName) -> Split | None:
        """One split that is read from disk while it is used; in the order of the classes, then of the file names."""
        import torch

        from benchmark import Split
        from tasks.image_folder.held_out import check_held_out, split_rows

        part = "val" if split == "test" else "train"
        index = ORIGINAL.index(data_root(), part)
        if split == "test":
            rows = split_rows(index, 0)[0]
        else:
            check_held_out(index.header, config.val_per_class)
            rows = split_rows(index, config.val_per_class)[0 if split == "train" else 1]
        if not len(rows):
            return None
        stream = self._stream(config, part, rows, augmented=split == "train")
        return Split(stream, torch.from_numpy(index.labels[rows]))

    def ood(self, config: ImageNetConfig) -> dict[str, ImageStream]:
        """Every image below each of the folders, as test images are read."""
        from tasks.image_folder.decode import FileImages
        from tasks.image_folder.stream import ImageStream

        root, found = data_root(), {}
        for name in config.ood:
            data = OodFolder(name)
            images = FileImages(data.folder(root), data.index(root, "images"))
            found[name] = ImageStream(images, _test_view(config), data.name)
        return found

    def corruptions(self, config: ImageNetConfig) -> Sequence[str]:
        return CORRUPTIONS

    def corruption_data(self, config: ImageNetConfig) -> Sequence[DataSet]:
        return [ImageNetC(config.image_size)]

    def corrupted(self, config: ImageNetConfig, corruption: str, severity: int) -> Split:
        """`shift_examples` files of ImageNet-C, read as they are, with the labels of the task."""
        import torch

        from benchmark import Split
        from tasks.image_folder.decode import FileImages
        from tasks.image_folder.stream import ImageStream
        from tasks.image_folder.transforms import View

        if corruption not in CORRUPTIONS or severity not in SEVERITIES:
            raise ConfigError(
                f"ImageNet-C has no corruption '{corruption}' at severity {severity}; legal: {', '.join(CORRUPTIONS)} "
                "at 1 to 5"
            )
        root, data = data_root(), ImageNetC(config.image_size)
        classes = ORIGINAL.header(root, "val").classes
        rows, labels = shifted_rows(data, root, corruption, severity, classes, config.shift_examples)
        part = part_name(corruption, severity)
        images = FileImages(data.part_folder(root, part), data.index(root, part))
        view = View(config.image_size, resized=None)
        stream = ImageStream(images, view, data.name, rows=torch.from_numpy(rows))
        return Split(stream, torch.from_numpy(labels))

    def input_range(self, config: ImageNetConfig) -> tuple[Tensor, Tensor]:
        """Black and white, normalised."""
        import torch

        from tasks.image_folder.stream import MEAN, STD

        mean, std = torch.tensor(MEAN), torch.tensor(STD)
        return -mean / std, (1 - mean) / std

    def _stream(self, config: ImageNetConfig, part: str, rows: NDArray[np.int64], *, augmented: bool) -> ImageStream:
        import torch

        from tasks.image_folder.decode import FileImages
        from tasks.image_folder.stream import ImageStream

        root = data_root()
        images: Images
        if config.source == "cache":
            cache = ImageCache(ORIGINAL, config.cache_side)
            name, images = cache.name, cache.images(root, part)
        else:
            name, images = ORIGINAL.name, FileImages(ORIGINAL.part_folder(root, part), ORIGINAL.index(root, part))
        augmentation = _augmentation(config) if augmented else None
        return ImageStream(images, _test_view(config), name, rows=torch.from_numpy(rows), augmentation=augmentation)


def _test_view(config: ImageNetConfig) -> View:
    from tasks.image_folder.transforms import View

    return View(config.image_size, config.resized, config.interpolation)


def _augmentation(config: ImageNetConfig) -> Augmentation | None:
    from tasks.image_folder.deit import Deit
    from tasks.image_folder.transforms import Standard

    side = config.image_size
    return {"none": None, "standard": Standard(side), "deit": Deit(side)}[config.augment]

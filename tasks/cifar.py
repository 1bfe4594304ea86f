"""CIFAR-10 and CIFAR-100: 50,000 training and 10,000 test images of 32x32 colour pixels.

The sizes are those of the published files; of other files of the same format the task takes what they hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from benchmark import Config, DataSet, Resources, SplitName, Task, TaskInfo, check_data, data_root, fingerprint_of
from tasks.files.cifar import Cifar10, Cifar100, CifarFiles
from tasks.files.corrupted_cifar import Cifar10C, Cifar100C, CorruptedCifar
from tasks.files.svhn import Svhn
from tasks.published_corruptions import CORRUPTIONS
from tasks.stratified import check_val_per_class, each_once, split_places

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark import Augment, Inputs, Split

SIDE = 32


class CifarConfig(Config):
    """What both tasks can be set to."""

    val_per_class: int = Field(
        500,
        ge=0,
        description="validation images of every class, taken from the training images; 0: no validation split",
    )
    augment: Literal["none", "flip_crop", "flip_crop_cutout", "flip_crop_randaugment"] = Field(
        "flip_crop",
        description=(
            "training augmentation. flip_crop: mirror images, and crops of the image padded by 4 black pixels "
            "(He et al. 2016). cutout: besides, a square of 16 pixels is blanked. randaugment: besides, two of 14 "
            "operations at strength 9 of 30. Above 32 pixels all lengths grow with the image"
        ),
    )
    image_size: Literal[32, 64, 224] = Field(
        32,
        description=(
            "side in pixels. Above 32 images are enlarged bilinearly on the device as they are read, for networks made "
            "for larger ones"
        ),
    )


class Cifar10Config(CifarConfig):
    """Settings of the task cifar10."""

    ood: tuple[Literal["svhn", "cifar100"], ...] = Field(
        (), description="data sets, of which the test images are scored as out of distribution"
    )

    _each_once = field_validator("ood")(each_once)


class Cifar100Config(CifarConfig):
    """Settings of the task cifar100."""

    val_per_class: int = Field(
        50,
        ge=0,
        description="validation images of every class, taken from the training images; 0: no validation split",
    )
    ood: tuple[Literal["svhn", "cifar10"], ...] = Field(
        (), description="data sets, of which the test images are scored as out of distribution"
    )

    _each_once = field_validator("ood")(each_once)


AnyConfig = Cifar10Config | Cifar100Config


class _CifarTask(Task):
    """What both tasks share: only files, moments and names differ."""

    files: ClassVar[CifarFiles]
    corrupted_files: ClassVar[CorruptedCifar]
    others: ClassVar[Mapping[str, CifarFiles | Svhn]]
    mean: ClassVar[tuple[float, float, float]]
    std: ClassVar[tuple[float, float, float]]
    """Of the training pixels / 255, per channel."""

    def data(self, config: AnyConfig) -> Sequence[DataSet]:
        return [self.files, *(self.others[name] for name in config.ood)]

    def data_set(self, name: str) -> DataSet | None:
        """Also what is out of distribution."""
        return self.others.get(name)

    def resources(self, config: AnyConfig) -> Resources:
        return Resources(gpus=1, cpus=4, memory_gib=16)

    def info(self, config: AnyConfig) -> TaskInfo:
        """
        Raises:
            MissingData: the files are not there or not whole.
            ConfigError: `val_per_class` leaves a class without training images.
        """
        check_data([self.files])
        counts = self.files.class_counts(data_root(), "train")
        check_val_per_class(self.name, config.val_per_class, counts)
        n_val = self.files.n_classes * config.val_per_class
        n_test = sum(self.files.class_counts(data_root(), "test"))
        shape = (3, config.image_size, config.image_size)
        return TaskInfo(shape, self.files.n_classes, sum(counts) - n_val, n_val, n_test)

    def fingerprint(self, config: AnyConfig) -> str:
        """From the content of the files; of files that did not change, a remembered one."""
        settings = f"val_per_class={config.val_per_class} bilinear {config.image_size}"
        return fingerprint_of(self.data(config), f"{self.name} stratified by SHA-256", settings)

    def load(self, config: AnyConfig, split: SplitName) -> Split | None:
        """One split, standardised, in the order of the files."""
        from benchmark import Split

        if split == "val" and config.val_per_class == 0:
            return None
        pixels, labels = self.files.read(data_root(), "test" if split == "test" else "train")
        if split != "test":
            counts = labels.bincount(minlength=self.files.n_classes).tolist()
            check_val_per_class(self.name, config.val_per_class, counts)
            places = split_places(self.name, labels, config.val_per_class, split)
            pixels, labels = pixels[places], labels[places]
        return Split(self._inputs(config, pixels), labels, self._augment(config) if split == "train" else None)

    def ood(self, config: AnyConfig) -> dict[str, Tensor | Inputs]:
        """Test images of the data sets that the settings name."""
        found: dict[str, Tensor | Inputs] = {}
        for name in config.ood:
            files = self.others[name]
            pixels, _ = files.read(data_root()) if isinstance(files, Svhn) else files.read(data_root(), "test")
            found[name] = self._inputs(config, pixels)
        return found

    def corruptions(self, config: AnyConfig) -> Sequence[str]:
        """The 15 of CIFAR-10-C and CIFAR-100-C."""
        return CORRUPTIONS

    def corrupted(self, config: AnyConfig, corruption: str, severity: int) -> Split:
        """All test images, as the authors of the benchmark corrupted them."""
        from benchmark import Split

        pixels, labels = self.corrupted_files.read(data_root(), corruption, severity)
        return Split(self._inputs(config, pixels), labels)

    def corruption_data(self, config: AnyConfig) -> Sequence[DataSet]:
        return [self.corrupted_files]

    def input_range(self, config: AnyConfig) -> tuple[Tensor, Tensor]:
        """Pixels 0 and 255 of every channel."""
        import torch

        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return -mean / std, (1 - mean) / std

    def _inputs(self, config: AnyConfig, pixels: Tensor) -> Inputs:
        from benchmark import Pixels

        inputs = Pixels(pixels, self.mean, self.std)
        if config.image_size == SIDE:
            return inputs
        from tasks.resized import Resized

        return Resized(inputs, config.image_size)

    def _augment(self, config: AnyConfig) -> Augment | None:
        from tasks.augmentations import CutOut, FlipCrop, InTurn
        from tasks.rand_augment import RandAugment

        if config.augment == "none":
            return None
        scale = config.image_size // SIDE
        black = tuple(-mean / std for mean, std in zip(self.mean, self.std, strict=True))
        flip_crop = FlipCrop(pixels=4 * scale, fill=black)
        if config.augment == "flip_crop_cutout":
            return InTurn((flip_crop, CutOut(side=16 * scale)))
        if config.augment == "flip_crop_randaugment":
            return InTurn((flip_crop, RandAugment(self.mean, self.std)))
        return flip_crop


class Cifar10Task(_CifarTask):
    """Classify the photographs of CIFAR-10: 45,000 training, 5,000 validation and 10,000 test images."""

    name = "cifar10"
    version = 1
    Config = Cifar10Config
    files, corrupted_files = Cifar10(), Cifar10C()
    others: ClassVar[Mapping[str, CifarFiles | Svhn]] = {"svhn": Svhn(), "cifar100": Cifar100()}
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Cifar100Task(_CifarTask):
    """Classify the photographs of CIFAR-100: 45,000 training, 5,000 validation and 10,000 test images."""

    name = "cifar100"
    version = 1
    Config = Cifar100Config
    files, corrupted_files = Cifar100(), Cifar100C()
    others: ClassVar[Mapping[str, CifarFiles | Svhn]] = {"svhn": Svhn(), "cifar10": Cifar10()}
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)

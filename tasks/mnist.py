"""MNIST and Fashion-MNIST: 60,000 training and 10,000 test images of 28x28 grey pixels in ten classes.

The sizes are those of the published files; of other files of the same format the task takes what they hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from benchmark import Config, DataSet, SplitName, Task, TaskInfo, check_data, data_root, fingerprint_of
from tasks.files.mnist import N_CLASSES, SIDE, FashionMnist, IdxFiles, Mnist
from tasks.stratified import check_val_per_class, each_once, split_places

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark import Inputs, Split


class MnistConfig(Config):
    """Settings of the task mnist."""

    val_per_class: int = Field(
        500,
        ge=0,
        description="validation images of every class, taken from the training images; 0: no validation split",
    )
    normalise: Literal["standard", "unit"] = Field(
        "standard",
        description=(
            "standard: mean 0 and standard deviation 1 over the training pixels. unit: pixels in [0, 1], as in the "
            "papers that sample posteriors"
        ),
    )
    augment: Literal["none", "shift"] = Field(
        "none", description="training augmentation. shift: a random translation by up to two pixels in both directions"
    )
    ood: tuple[Literal["fashion_mnist"], ...] = Field(
        (), description="data sets, of which the test images are scored as out of distribution"
    )

    _each_once = field_validator("ood")(each_once)


class FashionMnistConfig(MnistConfig):
    """Settings of the task fashion_mnist."""

    ood: tuple[Literal["mnist"], ...] = Field(  # type: ignore[assignment]
        (), description="data sets, of which the test images are scored as out of distribution"
    )


class _IdxTask(Task):
    """What both tasks share: only files, moments and names differ."""

    preload = ("torchvision.datasets",)
    files: ClassVar[IdxFiles]
    others: ClassVar[dict[str, IdxFiles]]
    moments: ClassVar[tuple[float, float]]
    """Mean and standard deviation of the training pixels / 255."""

    def data(self, config: MnistConfig) -> Sequence[DataSet]:
        return [self.files, *(self.others[name] for name in config.ood)]

    def data_set(self, name: str) -> DataSet | None:
        """Also what is out of distribution."""
        return self.others.get(name)

    def info(self, config: MnistConfig) -> TaskInfo:
        """
        Raises:
            MissingData: the files are not there or not whole.
            ConfigError: `val_per_class` leaves a class without training images.
        """
        check_data([self.files])
        counts = self.files.class_counts(data_root(), "train")
        check_val_per_class(self.name, config.val_per_class, counts)
        n_val, n_test = N_CLASSES * config.val_per_class, self.files.count(data_root(), "test")
        return TaskInfo((1, SIDE, SIDE), N_CLASSES, sum(counts) - n_val, n_val, n_test)

    def fingerprint(self, config: MnistConfig) -> str:
        """From the content of the files; of files that did not change, a remembered one."""
        settings = f"val_per_class={config.val_per_class} normalise={config.normalise}"
        return fingerprint_of(self.data(config), f"{self.name} stratified by SHA-256", settings)

    def load(self, config: MnistConfig, split: SplitName) -> Split | None:
        """One split, normalised, in the order of the files."""
        from benchmark import Split
        from tasks.shift import Shift

        if split == "val" and config.val_per_class == 0:
            return None
        pixels, labels = self.files.read(data_root(), "test" if split == "test" else "train")
        if split != "test":
            check_val_per_class(self.name, config.val_per_class, labels.bincount(minlength=N_CLASSES).tolist())
            places = split_places(self.name, labels, config.val_per_class, split)
            pixels, labels = pixels[places], labels[places]
        augment = None
        if split == "train" and config.augment == "shift":
            mean, std = self._scale(config)
            augment = Shift(pixels=2, fill=-mean / std)
        return Split(self._inputs(config, pixels), labels, augment)

    def ood(self, config: MnistConfig) -> dict[str, Tensor | Inputs]:
        """Test images of the data sets that the settings name."""
        return {name: self._inputs(config, self.others[name].read(data_root(), "test")[0]) for name in config.ood}

    def corruptions(self, config: MnistConfig) -> Sequence[str]:
        """The suite's own: see tasks/corruptions.py."""
        from tasks.corruptions import CORRUPTIONS

        return CORRUPTIONS

    def corrupted(self, config: MnistConfig, corruption: str, severity: int) -> Split:
        """All test images, corrupted."""
        from benchmark import Split
        from tasks.corruptions import corrupt

        pixels, labels = self.files.read(data_root(), "test")
        mean, std = self._scale(config)
        images = corrupt(pixels.float().div_(255), corruption, severity)
        return Split(images.sub_(mean).div_(std), labels)

    def corruption_fingerprint(self, config: MnistConfig) -> str:
        """Of what `corrupted` does to the test images of `fingerprint`."""
        from tasks.corruptions import corruptions_digest

        return corruptions_digest()

    def corruption_data(self, config: MnistConfig) -> Sequence[DataSet]:
        return [self.files]

    def input_range(self, config: MnistConfig) -> tuple[Tensor, Tensor]:
        """Black is 0 and white 255; ink is white."""
        import torch

        mean, std = self._scale(config)
        return torch.tensor([-mean / std]), torch.tensor([(1 - mean) / std])

    def _scale(self, config: MnistConfig) -> tuple[float, float]:
        return self.moments if config.normalise == "standard" else (0.0, 1.0)

    def _inputs(self, config: MnistConfig, pixels: Tensor) -> Inputs:
        from benchmark import Pixels

        mean, std = self._scale(config)
        return Pixels(pixels, [mean], [std])


class MnistTask(_IdxTask):
    """Classify handwritten digits of MNIST: 55,000 training, 5,000 validation and 10,000 test images."""

    name = "mnist"
    version = 1
    Config = MnistConfig
    files, others, moments = Mnist(), {"fashion_mnist": FashionMnist()}, (0.1307, 0.3081)


class FashionMnistTask(_IdxTask):
    """Classify articles of clothing of Fashion-MNIST: 55,000 training, 5,000 validation and 10,000 test images."""

    name = "fashion_mnist"
    version = 1
    Config = FashionMnistConfig
    files, others, moments = FashionMnist(), {"mnist": Mnist()}, (0.2860, 0.3530)

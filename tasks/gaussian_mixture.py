"""Synthetic images with an exactly known p(y | x): every class is a mixture of noisy template images."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING

from pydantic import Field

from benchmark import Config, SplitName, Task, TaskInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from benchmark import Split

GENERATOR_VERSION = 1
"""Raised when equal settings give other arrays; part of the fingerprint."""

TEMPLATE_NORM = 4.0
"""Root mean square Euclidean norm of a template, whatever its shape: larger images are not easier by their size alone,
and their pixels stay near unit variance."""

MODES_PER_AXIS = 4
"""Cosine modes per image axis; the waves of a template are a quarter of the image or longer."""

STREAMS = {"train": 1, "val": 2, "test": 3}
"""Random streams next to stream 0, the templates': changing one size leaves all other arrays as they are."""


class GaussianMixtureConfig(Config):
    """Settings of the task; the defaults have the Bayes accuracy and NLL documented at `GaussianMixture`."""

    classes: int = Field(default=10, ge=2, description="K, all equally frequent")
    templates_per_class: int = Field(default=3, ge=1, description="images of a class, before the noise")
    channels: int = Field(default=1, ge=1, description="channels of an image")
    height: int = Field(default=8, ge=1, description="rows of an image")
    width: int = Field(default=8, ge=1, description="columns of an image")
    noise: float = Field(
        default=0.95, gt=0, allow_inf_nan=False, description="standard deviation of the noise on every pixel"
    )
    n_train: int = Field(default=1000, ge=1, description="training examples")
    n_val: int = Field(default=250, ge=0, description="validation examples; 0: no validation split")
    n_test: int = Field(default=2000, ge=1, description="test examples")
    data_seed: int = Field(
        default=0, ge=0, description="decides templates, labels and noise; independent of a run's seed"
    )


class GaussianMixture(Task):
    """Classify x = t + noise * N(0, I), with t one of the templates of class y; classes and templates are uniform.

    Known law: p(y | x) is proportional to the sum over the templates t of y of exp(-|x - t|^2 / (2 noise^2)). No
    classifier can beat it in expected NLL. A smaller `n_train` is a prefix of a larger one.

    Default settings: Bayes accuracy 0.902, Bayes NLL 0.281 nats (200,000 draws; standard errors below 0.001). Other
    values of `data_seed` move the accuracy between 0.89 and 0.93; noise 0.8 gives 0.96 and noise 1.0 gives 0.88.
    """

    name = "gaussian_mixture"
    version = 1
    Config = GaussianMixtureConfig

    def info(self, config: GaussianMixtureConfig) -> TaskInfo:
        shape = (config.channels, config.height, config.width)
        return TaskInfo(shape, config.classes, config.n_train, config.n_val, config.n_test)

    def fingerprint(self, config: GaussianMixtureConfig) -> str:
        """From settings and generator version, which determine every array; hence free of any array's size."""
        settings = json.dumps(config.identity(), sort_keys=True)
        return hashlib.sha256(f"gaussian_mixture {GENERATOR_VERSION} {settings}".encode()).hexdigest()

    def load(self, config: GaussianMixtureConfig, split: SplitName) -> Split | None:
        import torch

        from benchmark import Split

        n = {"train": config.n_train, "val": config.n_val, "test": config.n_test}[split]
        if n == 0:
            return None
        inputs, labels = draw(config, n, STREAMS[split])
        return Split(torch.from_numpy(inputs), torch.from_numpy(labels))

    def true_log_probs(self, config: GaussianMixtureConfig, inputs: Tensor) -> Tensor:
        """Exact log p(y | x), float64 (n, K), for the float32 `inputs` (n, C, H, W); on the device of `inputs`."""
        import torch

        pixels = inputs.flatten(1).to(torch.float64)  # (n, D)
        means = torch.from_numpy(templates(config)).to(pixels).flatten(0, 1).flatten(1)  # (K * T, D)
        # |x|^2 is the same for all classes and left out, which also avoids cancellation.
        exponents = (pixels @ means.T - means.square().sum(dim=1) / 2) / config.noise**2  # (n, K * T)
        per_template = exponents.unflatten(1, (config.classes, config.templates_per_class))
        log_probs: Tensor = per_template.logsumexp(dim=2).log_softmax(dim=1)
        return log_probs


def templates(config: GaussianMixtureConfig) -> NDArray[np.float64]:
    """Templates (K, T, C, H, W): white noise in the lowest cosine modes of each channel, that is, smooth blobs.

    Rounded to multiples of 2^-10: the cosines of two machines may differ in the last bit, the templates do not.
    """
    import numpy as np

    rows, columns = cosine_modes(config.height), cosine_modes(config.width)
    shape = (config.classes, config.templates_per_class, config.channels, len(rows), len(columns))
    coefficients = _generator(config, 0).standard_normal(shape)
    scale = TEMPLATE_NORM / math.sqrt(config.channels * len(rows) * len(columns))
    images = np.einsum("ktcij,ih,jw->ktchw", scale * coefficients, rows, columns)
    return np.asarray(np.round(images * 1024) / 1024)


def cosine_modes(length: int) -> NDArray[np.float64]:
    """The lowest min(4, length) rows of the orthonormal DCT-II matrix: (modes, length)."""
    import numpy as np

    mode = np.arange(min(MODES_PER_AXIS, length))[:, None]
    waves = np.cos(np.pi * mode * (np.arange(length) + 0.5) / length)
    return np.asarray(waves * np.where(mode == 0, math.sqrt(1 / length), math.sqrt(2 / length)))


def draw(config: GaussianMixtureConfig, n: int, stream: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """`n` independent pairs of the law: inputs (n, C, H, W) float32 and labels (n,) int64.

    Labels and noise have generators of their own, so that fewer pairs are a prefix of more.
    """
    import numpy as np

    picked = _generator(config, stream, 0).integers(config.classes * config.templates_per_class, size=n)
    shape = (n, config.channels, config.height, config.width)
    noise = _generator(config, stream, 1).standard_normal(shape)
    means = templates(config).reshape(-1, *shape[1:])
    inputs = (means[picked] + config.noise * noise).astype(np.float32)
    return inputs, (picked // config.templates_per_class).astype(np.int64)


def _generator(config: GaussianMixtureConfig, *stream: int) -> np.random.Generator:
    import numpy as np

    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(config.data_seed, spawn_key=stream)))

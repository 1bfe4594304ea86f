"""Published recipes for base networks, as settings of `TrainingConfig`.

What happens to the images (crops, flips, CutOut, RandAugment, random erasing, repeated augmentation) belongs to the
task, what happens inside the network (stochastic depth) to the network; mixing two images and their labels is here.
Unlike in the papers on convolutional networks, norms and biases do not decay. The published recipes keep the last
epoch, and compute in float32 unless `precision` says otherwise.
"""

from __future__ import annotations

from typing import Any

_CIFAR: dict[str, Any] = {
    "epochs": 200,
    "optimiser": "sgd",
    "lr": 0.1,
    "warmup": 0.0,
    "schedule": "steps",
    "milestones": (0.3, 0.6, 0.8),
    "step_factor": 0.2,
    "select": "last",
}

PRESETS: dict[str, dict[str, Any]] = {
    # BayesAdapter (arXiv 2010.01979): WRN-28-10 on CIFAR, rate times 0.2 at epochs 60, 120 and 160.
    "wrn": {**_CIFAR, "batch_size": 256, "weight_decay": 2e-4},
    # The architecture: He et al., CVPR 2016 (arXiv 1512.03385). The recipe: Zagoruyko, Komodakis, "Wide Residual
    # Networks", BMVC 2016 (arXiv 1605.07146), as DeVries and Taylor (arXiv 1708.04552) train ResNet-18 on CIFAR.
    "resnet_cifar": {**_CIFAR, "batch_size": 128, "weight_decay": 5e-4},
    # He et al., CVPR 2016, with the fixed drops of Goyal et al. (arXiv 1706.02677): a tenth at epochs 30, 60 and 80 of
    # 90. For another batch size scale `lr` with it, and warm up for five epochs where it is much larger.
    "resnet_imagenet": {
        "epochs": 90,
        "batch_size": 256,
        "optimiser": "sgd",
        "lr": 0.1,
        "weight_decay": 1e-4,
        "warmup": 0.0,
        "schedule": "steps",
        "milestones": (30 / 90, 60 / 90, 80 / 90),
        "step_factor": 0.1,
        "select": "last",
    },
    # Touvron et al., ICML 2021 (arXiv 2012.12877): 5e-4 * batch / 512, five epochs of warm-up, floor 1e-5. Theirs
    # warms up from 1e-6 in steps of an epoch, ours from 0 in optimiser steps; theirs lets the cosine begin at epoch 0,
    # ours after the warm-up.
    "deit": {
        "epochs": 300,
        "batch_size": 1024,
        "optimiser": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.05,
        "warmup": 5 / 300,
        "schedule": "cosine",
        "min_lr": 0.01,
        "label_smoothing": 0.1,
        "mixup": 0.8,
        "cutmix": 1.0,
        "clip_norm": None,
        "ema": 0.0,
        "select": "last",
    },
    # Ours: perceptrons of a few hundred units on MNIST, in a minute on a CPU.
    "mlp_mnist": {
        "epochs": 20,
        "batch_size": 128,
        "optimiser": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.01,
        "warmup": 0.05,
        "schedule": "cosine",
    },
}

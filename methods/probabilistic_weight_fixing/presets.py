"""The released way of weight fixing, and a short one for trying things out, as settings.

Subia-Waud, Dasmahapatra, "Probabilistic Weight Fixing" (NeurIPS 2023, arXiv 2309.13575). `paper` has the options of the
published runs and what their code does, where that is no defect: every round clusters all weights anew, decay acts on
deviations, running statistics stay as training left them, predictions are made with draws. The paper trains ImageNet
in batches of 128, CIFAR in batches of 256.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "recluster_all": True,
        "sigma_pool": "none",
        "lr": 1e-3,
        "decay_sigma": True,
        "batch_size": 256,
        "bn_reestimate_batches": 0,
        "predict": "draws",
    },
    "smoke": {"fractions": (0.5, 0.9, 1.0), "rest_epochs": 1, "batch_size": 64},
}

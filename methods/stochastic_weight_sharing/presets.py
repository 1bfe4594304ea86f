"""The published way of weight sharing, and a short one for trying things out, as settings.

Lin, Guan, Jing, Botterweck, Patane, "Stochastic Weight Sharing for Bayesian Neural Networks" (AISTATS 2025, arXiv
2505.17856). `paper` is the algorithm of its released README with the constants of its released code, and with what that
code lacks: a KL term in stage 1, optimiser steps in stage 3, and an ELBO scaled by the number of training examples.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "source": "before_sharing_paper",
        "scope": "global",
        "cluster": "gmm",
        "components": None,
        "outliers": "gradient",
        "outlier_fraction": 0.01,
        "outlier_size": 0.2,
        "merge": "w2",
        "tau_d": 3.9e-4,
        "blend": "moments",
        "codebook": "2d",
        "sampling": "tied",
        "prior_scale": "l2",
        "l2": 5e-4,
        "kl_weight": 1.0,
        "epochs": 20,
        "batch_size": 256,
        "lr_mu": 1e-5,
        "lr_codebook": 1e-5,
        "bn": "train",
        "refresh": False,
        "keep": "last",
        "storage": "exact",
    },
    "smoke": {"source": "base", "components": 16, "epochs": 1},
}

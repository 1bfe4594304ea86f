"""The published ways of fine-tuning with weight noise, and variants of the recommended one, as settings.

Deng, Zhu, "BayesAdapter" (arXiv 2010.01979); `before_sharing` after Lin et al. (arXiv 2505.17856) and their code.
BayesAdapter has two generations whose numbers must never be mixed: v1 (2020) and v2 (ACML 2022). The strength of the
prior and N come from the base run and the task, except where a preset is for one data set. `micro_batch: 32` gives the
batch statistics and the memory of the paper's eight devices. Predictions average 20 draws in v2 and 100 in v1: that is
the protocol's `draws`, which a study sets for all of its rows.
"""

from __future__ import annotations

from typing import Any

_PUBLISHED: dict[str, Any] = {
    "batch_size": 256,
    "micro_batch": 32,
    "estimator": "exemplar",
    "select": "paper",
    "sigma_init": {"kind": "uniform_log", "low": -6.0, "high": -5.0},
    "sigma_search": False,
    "sigma_rescale": False,
    "optim_mu": "sgd",
    "schedule_mu": "constant",
    "optim_psi": "sgd",
    "clamp": False,
    "encoding": "raw",
}
_V2 = {**_PUBLISHED, "lr_mu": 1e-4, "lr_psi": 1e-3, "precision": "fp16"}
_V1 = {**_PUBLISHED, "lr_psi": 0.1, "schedule_psi": "steps", "precision": "fp32"}
_IMAGENET = {"epochs": 4, "nesterov": False}
_BEFORE_SHARING: dict[str, Any] = {
    "sigma_search": False,
    "sigma_rescale": False,
    "kl_ramp": 0.2,
    "bn": "reestimate",
    "encoding": "raw",
}

PRESETS: dict[str, dict[str, Any]] = {
    # The published rows. Their psi hardly moves: they are fine-tuning under fixed noise of sigma about 0.0044.
    "paper": {**_V2, "epochs": 12},
    "paper_imagenet": {**_V2, **_IMAGENET},
    "paper_face": {**_V2, **_IMAGENET, "l2": 5e-4},
    "paper_v1": {**_V1, "epochs": 40, "lr_mu": 8e-4, "factor_psi": 0.2},
    "paper_v1_imagenet": {**_V1, "epochs": 12, "lr_mu": 1e-4, "factor_psi": 0.1, "nesterov": False},
    "moped": {**_V2, "epochs": 12, "prior_mean": "pretrained"},
    # The demo of the released code's README, which decays mu twice.
    "demo": {
        **_PUBLISHED,
        "epochs": 1,
        "batch_size": 32,
        "micro_batch": None,
        "lr_mu": 8e-4,
        "lr_psi": 0.1,
        "schedule_psi": "constant",
        "l2": 2e-4,
        "extra_mu_decay": 2e-4,
        "precision": "fp32",
    },
    # Variants of the recommended settings: no training, only the search for sigma; a tenth of the KL term.
    "posthoc": {"epochs": 0, "sigma_rescale": False},
    "tempered": {"kl_temperature": 0.1},
    # What stochastic weight sharing starts from: sigma follows the curvature weight by weight, so that it says which
    # weights may share; the values are stored as they are.
    "before_sharing": {
        **_BEFORE_SHARING,
        "epochs": 30,
        "sigma_init": {"kind": "relative_rms", "value": 0.02},
        "optim_mu": "adam",
        "lr_mu": 1e-4,
        "lr_psi": 1e-2,
        "prior_scale": "layer_std",
        "kl_temperature": "auto",
        "keep": "best",
    },
    # The rates of the released code, at which sigma hardly moves from 3e-4; the batch statistics are those of training.
    "before_sharing_paper": {
        **_BEFORE_SHARING,
        "epochs": 20,
        "sigma_init": {"kind": "constant", "value": 3e-4},
        "train_rest": False,
        "optim_mu": "sgd",
        "lr_mu": 1e-5,
        "optim_psi": "sgd",
        "lr_psi": 1e-3,
        "l2": 5e-4,
        "clamp": False,
    },
}

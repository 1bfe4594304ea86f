"""The sampling of the papers as settings.

`paper`: Xiao, Liu, Bamler, "A Compact Representation for Bayesian Neural Networks By Removing Permutation Symmetry"
(arXiv 2401.00611), the released configuration for an MLP 784-512-10 on MNIST. `csgmcmc`: Zhang, Li, Zhang, Chen and
Wilson, "Cyclical Stochastic Gradient MCMC for Bayesian Deep Learning" (ICLR 2020), their released CIFAR configuration,
which tempers the posterior and samples with augmentation. `smoke`: seconds, to try things out.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "sampler": "hmc",
        "chains": 1,
        "init": "random",
        "prior_std": 1.0,
        "burn_in": 100,
        "discard": 500,
        "samples": 9400,
        "keep": 1000,
        "step_size": 1e-3,
        "trajectory": 0.5,
        "max_leapfrog": 500,
        "jitter": 0.0,
    },
    "csgmcmc": {
        "sampler": "sghmc",
        "chains": 1,
        "integrator": "sghmc",
        "lr": 0.5,
        "momentum": 0.1,
        "batch_size": 64,
        "cycles": 4,
        "cycle_epochs": 50,
        "explore": 0.9,
        "schedule": "cosine",
        "snapshots": 3,
        "temperature": 1 / 50_000,
        "augment": True,
    },
    "smoke": {
        "chains": 2,
        "burn_in": 10,
        "samples": 10,
        "keep": 5,
        "max_leapfrog": 10,
        "cycles": 2,
        "cycle_epochs": 2,
        "snapshots": 2,
    },
}
"""Settings of `hmc`."""

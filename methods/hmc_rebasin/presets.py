"""The released configuration and a short one.

`paper`: Xiao, Liu, Bamler (arXiv 2401.00611): activations matched to the first sample, pruning by sigma, float32. Their
network is the perceptron 784-512-10 on MNIST.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "sampling": {"preset": "paper"},
        "matching": "activation",
        "reference": "first",
        "prune_rule": "sigma",
        "encoding": "fp32",
    },
    "smoke": {"sampling": {"preset": "smoke"}, "restarts": 1},
}
"""Settings of `hmc_rebasin`."""

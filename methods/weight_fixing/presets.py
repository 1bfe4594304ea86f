"""The released way of weight fixing, and a short one for trying things out, as settings.

Subia-Waud, Dasmahapatra, "Weight Fixing Networks" (ECCV 2022, arXiv 2210.13554). `paper`: every iteration clusters all
weights anew, and running statistics stay as training left them. The published runs have delta in 0.0075, 0.01, 0.015.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"recluster_all": True, "bn_reestimate_batches": 0},
    "smoke": {"fractions": (0.5, 0.9, 1.0), "rest_epochs": 1},
}

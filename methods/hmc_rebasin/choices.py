"""What a user may choose between, without the machinery: settings are checked before torch is needed."""

from __future__ import annotations

from typing import Literal

Encoding = Literal["grid", "fp16", "fp32"]
"""How the summary is stored."""
Rule = Literal["snr", "sigma", "abs_mu"]
"""Who survives pruning."""
Scope = Literal["all", "weights"]
"""What is ranked for pruning."""

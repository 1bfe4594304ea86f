"""What a user may choose between, without the machinery: settings are checked before torch is needed."""

from __future__ import annotations

from typing import Literal

Reference = Literal["iter_mean", "first", "unaligned_mean"]
"""Who samples are matched to: the mean of the aligned, the first of them, or the mean of all as they come."""
WithinHead = Literal["procrustes", "perm", "none"]
"""What may happen inside a head: rotations, permutations of its dimensions, or nothing."""
MatchBy = Literal["weight", "activation", "cosine_fc1"]
"""What is compared: all weights, activations, or cosines of first-layer rows."""

"""The one source of seeds: named components, hashed. Adding a method or a purpose shifts nobody else's randomness."""

from __future__ import annotations

import hashlib
import random

import numpy as np

from benchmark.files import canonical_json


def seed_from(*components: str | int) -> int:
    """A 63-bit seed: the first 8 bytes of SHA-256 over the JSON list of components, top bit cleared.

    JSON keeps ("a_b", "c") and ("a", "b_c") apart, and 1 and "1" too.
    """
    digest = hashlib.sha256(canonical_json(list(components)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch, for code that draws from them (dropout, plugins)."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the legacy generator is the one that plugins reach by accident
    torch.manual_seed(seed)

"""What clustering works on: every weight in scope, flat, and which of them are fixed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Fixing:
    """N weights in the network's order, row-major. Clustering and training change the tensors in place.

    mu: (N,) float32. sigma: (N,) float32, raw, may be negative; None where weights are points. fixed: (N,) bool. code:
    (N,) int16, or int32 where codes need it: the value of a fixed weight is code 2^-b, exactly mu; 0 and meaningless
    where a weight is free.
    """

    mu: Tensor
    sigma: Tensor | None
    fixed: Tensor
    code: Tensor
    b: int

    @classmethod
    def of(cls, mu: Tensor, sigma: Tensor | None, b: int, code_dtype: torch.dtype = torch.int16) -> Fixing:
        """All weights free; the tensors are used, not copied."""
        fixed = torch.zeros(len(mu), dtype=torch.bool, device=mu.device)
        return cls(mu, sigma, fixed, torch.zeros(len(mu), dtype=code_dtype, device=mu.device), b)

    def __len__(self) -> int:
        return len(self.mu)

    @property
    def deviations(self) -> Tensor:
        """sigma, of weights that have one.

        Raises:
            ValueError: they are points.
        """
        if self.sigma is None:
            raise ValueError("these weights are points, without sigma; give Fixing.of a sigma, (N,) float32")
        return self.sigma

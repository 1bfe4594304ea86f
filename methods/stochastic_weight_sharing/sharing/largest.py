"""The largest of a long sequence that comes in pieces, in memory that does not grow with its length."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.stochastic_weight_sharing.sharing.plane import CHUNK


class Largest:
    """The `count` largest numbers and their positions; of equal numbers, those that came first.

    Holds at most 2 count + CHUNK of them, whatever the length.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self._count = count
        self._values = [torch.zeros(0, dtype=torch.float64, device=device)]
        self._index = [torch.zeros(0, dtype=torch.int64, device=device)]
        self._held = 0
        self._threshold: Tensor | None = None

    def see(self, values: Tensor, start: int) -> None:
        """The next piece, (m,); its positions are start, start + 1, ..."""
        if not self._count:
            return
        if self._threshold is None:
            own = torch.arange(len(values), device=values.device)
        else:
            own = (values > self._threshold).nonzero()[:, 0]
        self._values.append(values[own].double())
        self._index.append(own + start)
        self._held += len(own)
        if self._held > self._count + max(self._count, CHUNK):
            self._drop_smaller()

    def index(self) -> Tensor:
        """Their positions, int64, rising."""
        self._drop_smaller()
        return self._index[0]

    def smallest(self) -> float:
        """The smallest of the `count` largest."""
        self._drop_smaller()
        return float(self._values[0].min())

    def _drop_smaller(self) -> None:
        values, index = torch.cat(self._values), torch.cat(self._index)
        if len(values) > self._count:
            self._threshold = values.kthvalue(len(values) - self._count + 1).values
            kept = values > self._threshold
            equal = (values == self._threshold).nonzero()[:, 0]
            kept[equal[: self._count - int(kept.sum())]] = True
            values, index = values[kept], index[kept]
        self._values, self._index, self._held = [values], [index], len(values)

"""Entropy coding with integer frequencies: asymmetric numeral systems (Duda 2009), run by `constriction`.

Frequencies are 24-bit integers that sum to 2^24. They are handed over as floats, but in such a way that no
rounding can take place: `constriction` gives symbol i the frequency 1 + w_i (2^24 - n) / sum(w), and the w given
here sum to exactly 2^24 - n. So the model is exact in integers, and encoder and decoder agree on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import constriction
import numpy as np
import numpy.typing as npt

from benchmark.compression.varint import Cursor

PRECISION = 24
Symbols = npt.NDArray[np.int32]
Frequencies = npt.NDArray[np.int64]


def frequencies(weights: npt.NDArray[np.int64]) -> Frequencies:
    """24-bit frequencies (n,) in proportion to `weights` (n,), n >= 2: each at least 1, sum 2^24.

    f_i = 1 + floor(w_i (2^24 - n) / sum(w)); what flooring leaves goes to the first of the largest weights.
    Weights are nonnegative, below 2^39, with a positive sum.
    """
    free = (1 << PRECISION) - len(weights)
    shares = weights * free // int(weights.sum())
    shares[int(np.argmax(weights))] += free - int(shares.sum())
    return shares + 1


def model(freqs: Frequencies) -> Any:
    """The `constriction` model with exactly these frequencies."""
    return constriction.stream.model.Categorical((freqs - 1).astype(np.float64), perfect=False)


def encode(groups: Sequence[tuple[Symbols, Any]]) -> bytes:
    """Groups of (symbols, model), to be decoded in this order; little-endian 32-bit words."""
    coder = constriction.stream.stack.AnsCoder()
    for symbols, of in reversed(groups):  # a stack: the last one in is the first one out
        coder.encode_reverse(symbols, of)
    return bytes(coder.get_compressed().astype("<u4").tobytes())


class Decoder:
    """Takes back from a stack of words what `encode` put there, in the order of its groups."""

    def __init__(self, source: Cursor) -> None:
        """Reads all that is left of `source`."""
        self._source = source
        if source.left % 4:
            raise source.damaged("coded symbols are not whole 32-bit words")
        words = np.frombuffer(source.rest(), dtype="<u4").astype(np.uint32)
        try:
            self._coder = constriction.stream.stack.AnsCoder(words)
        except ValueError as error:
            raise source.damaged("coded symbols end in a zero word") from error

    def decode(self, of: Any, count: int) -> Symbols:
        """The next `count` symbols under the model `of`."""
        symbols: Symbols = self._coder.decode(of, count)
        return symbols

    def end(self) -> None:
        """Check that the coder is back in the state in which encoding began: a whole-stream check of integrity."""
        if not self._coder.is_empty():
            raise self._source.damaged("coded symbols do not end where they should")

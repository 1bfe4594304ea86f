"""Writes a posterior to bytes, section by section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import torch

from benchmark.compression.container import Kind, Section, pack
from benchmark.compression.floats import Storage, encode_tensor, encode_tensors
from benchmark.compression.gaussian import Std, encode_gaussian
from benchmark.compression.generic import encode_state
from benchmark.compression.histogram import encode_indices
from benchmark.compression.settings import encode_json

GENERIC_SECTION = "state"


class BitWriter:
    """Collects named sections and puts them into one checked byte string. Equal content gives equal bytes.

    Tensors may live on any device and in any memory layout; what is kept is the shape and the logical order.

        >>> out = BitWriter(codec="mean_field")
        >>> out.json("settings", {"step": 0.25})
        >>> out.tensor("scale", torch.tensor([1.0, 2.0]))
        >>> src = BitReader(out.finish())
        >>> src.json("settings"), src.tensor("scale").tolist()
        ({'step': 0.25}, [1.0, 2.0])

    All methods raise ValueError for values that the section cannot give back and for a name used before.
    """

    def __init__(self, codec: str = "own") -> None:
        """`codec` is a word for the row of results: how the posterior was written."""
        if not codec:
            raise ValueError("the name of a codec is empty")
        self.codec = codec
        self._sections: dict[str, Section] = {}

    def json(self, name: str, value: Any) -> None:
        """Small settings: None, bool, int, finite float, str, lists and dicts of these (tuples become lists)."""
        self._add(name, Kind.JSON, encode_json(value))

    def tensor(self, name: str, tensor: torch.Tensor, dtype: Storage = "float32") -> None:
        """A floating-point tensor, rounded to `dtype`; read back as float32."""
        self._add(name, Kind.TENSOR, encode_tensor(tensor, dtype))

    def tensors(self, name: str, tensors: Mapping[str, torch.Tensor], dtype: Storage = "float32") -> None:
        """Many named floating-point tensors in one section, about 15 bytes of overhead each; order is kept."""
        self._add(name, Kind.TENSORS, encode_tensors(tensors, dtype))

    def indices(self, name: str, values: torch.Tensor | npt.NDArray) -> None:
        """Integers or bool of any shape, entropy-coded under their own histogram, which is part of the section.

        Constant arrays take a dozen bytes; arrays without structure fall back to a fixed width. Shape and dtype
        come back. At most 2^28 elements.
        """
        self._add(name, Kind.INDICES, encode_indices(values))

    def gaussian_indices(self, name: str, values: torch.Tensor | npt.NDArray, std: Std) -> None:
        """Integers under a Gaussian N(0, std^2) on the integers; nothing about the distribution is stored.

        `std`, in units of the integer step, broadcasts to the shape of `values`; 0 is legal, and outliers of any
        size cost about 24 bits and their own length. The reader must be given the same `std`: derive it on both
        sides from decoded numbers, on the CPU, best by table look-up, +, -, * and /, which give the same bits
        everywhere. Where exp cannot be avoided, take it in float64: only the grid point of 1/32 octave counts, so
        that a last bit hardly ever matters, and the reader notices when it does.
        """
        self._add(name, Kind.GAUSSIAN, encode_gaussian(values, std))

    def raw(self, name: str, data: bytes) -> None:
        """Any bytes, as they are."""
        self._add(name, Kind.RAW, bytes(data))

    def generic(self, state: Mapping[str, torch.Tensor]) -> None:
        """Named tensors in the generic codec: float32 in sorted name order, then LZMA. Sets `codec` to `generic`."""
        self._add(GENERIC_SECTION, Kind.GENERIC, encode_state(state))
        self.codec = "generic"

    def finish(self) -> bytes:
        """The bytes of all sections so far."""
        return pack(self.codec, list(self._sections.values()))

    def _add(self, name: str, kind: Kind, payload: bytes) -> None:
        if not name.encode("utf-8"):  # a lone surrogate fails here, not in `finish`
            raise ValueError("the name of a section is empty")
        if name in self._sections:
            raise ValueError(f"section '{name}' was already written; names are unique")
        self._sections[name] = Section(name, kind, payload)

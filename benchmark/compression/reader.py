"""Reads what `BitWriter` wrote."""

from __future__ import annotations

from typing import Any

import torch

from benchmark.compression.container import Kind, unpack
from benchmark.compression.floats import decode_tensor, decode_tensors
from benchmark.compression.gaussian import Std, decode_gaussian
from benchmark.compression.generic import decode_state
from benchmark.compression.histogram import decode_indices
from benchmark.compression.settings import decode_json
from benchmark.compression.varint import Cursor
from benchmark.compression.writer import GENERIC_SECTION
from benchmark.errors import CorruptBitstream, PluginError


class BitReader:
    """Named sections of an encoded posterior, in any order. Tensors come back on the CPU, contiguous.

    Every method raises CorruptBitstream for a section that is damaged, missing or of another kind.
    """

    def __init__(self, data: bytes) -> None:
        """Checks magic, version, checksum and table of sections.

        Raises:
            CorruptBitstream: the bytes are damaged, truncated or of an unknown format.
        """
        self._size = len(data)
        self.codec, sections = unpack(bytes(data))
        self._sections = {section.name: section for section in sections}
        self._unread = set(self._sections)

    def sections(self) -> dict[str, int]:
        """Bytes of each payload, in written order; what is missing to the size of the file is `overhead`."""
        return {name: len(section.payload) for name, section in self._sections.items()}

    @property
    def overhead(self) -> int:
        """Bytes of the frame: magic, version, codec, table of sections, checksum."""
        return self._size - sum(self.sections().values())

    def json(self, name: str) -> Any:
        """Settings written by `BitWriter.json`."""
        return decode_json(self._open(name, Kind.JSON))

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor written by `BitWriter.tensor`: float32, whatever the precision on disk."""
        return decode_tensor(self._open(name, Kind.TENSOR))

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Tensors written by `BitWriter.tensors`: float32, in written order."""
        return decode_tensors(self._open(name, Kind.TENSORS))

    def indices(self, name: str) -> torch.Tensor:
        """Integers written by `BitWriter.indices`, in their dtype."""
        return decode_indices(self._open(name, Kind.INDICES))

    def gaussian_indices(self, name: str, std: Std) -> torch.Tensor:
        """Integers written by `BitWriter.gaussian_indices`, in their dtype.

        Raises:
            ValueError: `std` is not the one they were written with.
        """
        return decode_gaussian(self._open(name, Kind.GAUSSIAN), std)

    def raw(self, name: str) -> bytes:
        """Bytes written by `BitWriter.raw`."""
        return bytes(self._open(name, Kind.RAW).rest())

    def generic(self) -> dict[str, torch.Tensor]:
        """The state written by `BitWriter.generic`, in sorted name order."""
        return decode_state(self._open(GENERIC_SECTION, Kind.GENERIC))

    def finish(self) -> None:
        """Check that every section was read: bytes that decoding does not need must not be in the file.

        Raises:
            PluginError: a section that nobody asked for.
        """
        if self._unread:
            names = ", ".join(f"'{name}'" for name in self._sections if name in self._unread)
            raise PluginError(f"decode left sections unread: {names}. Read them, or do not write them.")

    def _open(self, name: str, kind: Kind) -> Cursor:
        section = self._sections.get(name)
        if section is None:
            legal = ", ".join(self._sections) or "(none)"
            raise CorruptBitstream(f"section '{name}' is not in the encoded posterior\n  sections: {legal}")
        if section.kind != kind:
            raise CorruptBitstream(
                f"section '{name}' holds {section.kind.name.lower()}, {kind.name.lower()} was asked for"
            )
        self._unread.discard(name)
        return Cursor(section.payload, f"section '{name}'")

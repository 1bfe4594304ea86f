"""Whole numbers in few bytes, and a cursor that reads them back without trusting what it reads.

A varint is unsigned LEB128: seven bits per byte, least significant first, the high bit set on all bytes but the
last. Signed numbers go through zigzag: 0, -1, 1, -2, ... become 0, 1, 2, 3, ...
"""

from __future__ import annotations

from benchmark.errors import CorruptBitstream

_MAX_VARINT_BYTES = 10  # 64 bits


def varint(value: int) -> bytes:
    """The shortest LEB128 form of 0 <= value < 2^64."""
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{value} is no unsigned 64-bit number")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def zigzag(value: int) -> int:
    """A signed 64-bit number as an unsigned one, small magnitudes first."""
    return value << 1 if value >= 0 else (-value << 1) - 1


def unzigzag(value: int) -> int:
    """The inverse of `zigzag`."""
    return value >> 1 if value & 1 == 0 else -((value + 1) >> 1)


class Cursor:
    """Reads a byte string from front to back. Whatever is missing or out of range is a CorruptBitstream."""

    def __init__(self, data: bytes | memoryview, what: str) -> None:
        self._data = memoryview(data)
        self._at = 0
        self.what = what
        """What is being read, for error messages."""

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def damaged(self, detail: str) -> CorruptBitstream:
        """The error for this place, to be raised by the caller."""
        return CorruptBitstream(f"{self.what}: {detail} (byte {self._at} of {len(self._data)})")

    def take(self, n: int) -> memoryview:
        """The next `n` bytes, without copying them."""
        if n > self.left:
            raise self.damaged(f"{n} bytes are announced, {self.left} are left")
        self._at += n
        return self._data[self._at - n : self._at]

    def byte(self) -> int:
        """The next byte as a number."""
        return self.take(1)[0]

    def varint(self, limit: int = (1 << 64) - 1) -> int:
        """The next varint, at most `limit`; only the shortest form is legal, so that equal content is equal bytes."""
        value = 0
        for i in range(_MAX_VARINT_BYTES):
            byte = self.byte()
            value |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                if i > 0 and byte == 0:
                    raise self.damaged("a number is not in its shortest form")
                if value > limit:
                    raise self.damaged(f"the number {value} is above its limit {limit}")
                return value
        raise self.damaged("a number does not end")

    def text(self, n: int) -> str:
        """The next `n` bytes as UTF-8."""
        try:
            return bytes(self.take(n)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.damaged("a name is not UTF-8") from error

    def rest(self) -> memoryview:
        """All bytes that are left."""
        return self.take(self.left)

    def end(self) -> None:
        """Check that nothing is left."""
        if self.left:
            raise self.damaged(f"{self.left} bytes are left over")

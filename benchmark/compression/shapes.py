"""Names and shapes of tensors in few bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmark.compression.varint import Cursor, varint

Shape = tuple[int, ...]

MAX_DIMENSIONS = 64  # torch's own limit
MAX_ELEMENTS = 1 << 28
"""Elements of one section of integers. A constant array of any length takes a dozen bytes, so that a length is
no evidence by itself; the bound keeps a forged one from asking for more than 2 GiB."""
_MAX_EXTENT = 1 << 48


def write_shape(shape: Sequence[int]) -> bytes:
    """Number of dimensions, then each of them, as varints.

    Raises:
        ValueError: an empty shape with dimensions that no reader accepts, such as (0, 2^50).
    """
    if _extent(shape) >= _MAX_EXTENT:
        raise ValueError(f"the shape {tuple(shape)} is too large to be written")
    return varint(len(shape)) + b"".join(varint(n) for n in shape)


def read_shape(source: Cursor, max_elements: int) -> Shape:
    """The inverse of `write_shape`, with at most `max_elements` elements."""
    shape = tuple(source.varint() for _ in range(source.varint(MAX_DIMENSIONS)))
    if math.prod(shape) > max_elements or _extent(shape) >= _MAX_EXTENT:
        raise source.damaged(f"the shape {shape} holds more than {max_elements} elements")
    return shape


def write_table(entries: Sequence[tuple[str, Shape]]) -> bytes:
    """Count, then per tensor: bytes shared with the previous name, further bytes, those bytes, the shape.

    Names of neighbours in a network share long prefixes; this about halves the table.
    """
    out = bytearray(varint(len(entries)))
    previous = b""
    for name, shape in entries:
        encoded = name.encode("utf-8")
        shared = _common_prefix(previous, encoded)
        out += varint(shared) + varint(len(encoded) - shared) + encoded[shared:] + write_shape(shape)
        previous = encoded
    return bytes(out)


def read_table(source: Cursor, max_elements: int) -> list[tuple[str, Shape]]:
    """The inverse of `write_table`; all tensors together hold at most `max_elements`."""
    entries: dict[str, Shape] = {}
    previous = b""
    for _ in range(source.varint(source.left)):
        prefix = previous[: source.varint(len(previous))]
        previous = prefix + bytes(source.take(source.varint(source.left)))
        try:
            name = previous.decode("utf-8")
        except UnicodeDecodeError as error:
            raise source.damaged("a name is not UTF-8") from error
        if name in entries:
            raise source.damaged(f"the name '{name}' occurs twice")
        entries[name] = read_shape(source, max_elements)
        max_elements -= math.prod(entries[name])
    return list(entries.items())


def _extent(shape: Sequence[int]) -> int:
    """The product of the dimensions other than 0: an empty tensor must not overflow strides either."""
    return math.prod(max(n, 1) for n in shape)


def _common_prefix(a: bytes, b: bytes) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))

"""Unsigned integers packed bit by bit: a fixed width for many, a universal code for tables and outliers.

Bits fill each byte from the least significant one; a number is written from its least significant bit; unused
bits of the last byte are 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmark.compression.varint import Cursor, varint

UInts = npt.NDArray[np.uint64]

_CHUNK = 1 << 20  # values; a multiple of 8, so that every chunk but the last ends on a byte
_POWERS = np.uint64(1) << np.arange(64, dtype=np.uint64)


def pack_fixed(values: UInts, width: int) -> bytes:
    """`values` (n,), each below 2^width, width 0 to 64, in ceil(n width / 8) bytes."""
    if width == 0:
        return b""
    planes = np.arange(width, dtype=np.uint64)
    out = bytearray()
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        bits = np.empty((len(chunk), width), dtype=np.uint8)
        for j in planes:
            bits[:, int(j)] = (chunk >> j) & np.uint64(1)
        out += np.packbits(bits.reshape(-1), bitorder="little").tobytes()
    return bytes(out)


def unpack_fixed(source: Cursor, count: int, width: int) -> UInts:
    """The inverse of `pack_fixed`; the length is checked before memory is taken."""
    data = source.take((count * width + 7) // 8)
    values = np.zeros(count, dtype=np.uint64)
    if width == 0 or count == 0:
        return values
    raw = np.frombuffer(data, dtype=np.uint8)
    for start in range(0, count, _CHUNK):
        n = min(_CHUNK, count - start)
        first = start * width // 8
        bits = np.unpackbits(raw[first : first + (n * width + 7) // 8], count=n * width, bitorder="little")
        rows = bits.reshape(n, width)
        for j in range(width):
            values[start : start + n] |= rows[:, j].astype(np.uint64) << np.uint64(j)
    if count * width % 8 and int(raw[-1]) >> (count * width % 8):
        raise source.damaged("padding bits are set")
    return values


def bit_length(values: UInts) -> npt.NDArray[np.int64]:
    """Bits of each number; 0 for 0. Exact over the whole range, unlike a float logarithm."""
    return np.searchsorted(_POWERS, values, side="right").astype(np.int64)


def write_universal(values: UInts) -> bytes:
    """Numbers of unknown range, small ones in few bits: a class in unary, then the bits below the leading one.

    An exponential Golomb code (Teuhola 1978) of the order k that is shortest for `values` (n,). The class of v is
    c = bits of (v >> k): v < 2^k has c = 0 and k more bits, else k + c - 1 more bits follow the implied leading
    one. Nothing at all is written for n = 0; otherwise: byte k, varint length of the unary bytes, the classes (c
    zeros and a one each), the remaining bits of all values.
    """
    if len(values) == 0:
        return b""
    order = _best_order(values)
    classes, widths = _classes(values, order)
    unary = np.zeros(int((classes + 1).sum()), dtype=np.uint8)
    unary[np.cumsum(classes + 1) - 1] = 1
    packed = np.packbits(unary, bitorder="little").tobytes()
    return bytes([order]) + varint(len(packed)) + packed + _pack_varying(values, widths)


def read_universal(source: Cursor, count: int) -> UInts:
    """The inverse of `write_universal` for a known count."""
    if count == 0:
        return np.zeros(0, dtype=np.uint64)
    order = source.byte()
    unary = source.take(source.varint(source.left))
    ones = np.flatnonzero(np.unpackbits(np.frombuffer(unary, dtype=np.uint8), bitorder="little"))
    # Exactly `count` terminators and less than a byte behind the last one: one form per content.
    if len(ones) != count or len(unary) != int(ones[-1]) // 8 + 1:
        raise source.damaged(f"{len(ones)} numbers where {count} belong")
    classes = np.diff(ones, prepend=-1) - 1
    if order > 63 or int(classes.max()) + order > 64:
        raise source.damaged("a number is longer than 64 bits")
    widths = np.where(classes == 0, order, order + classes - 1)
    low = _unpack_varying(source, widths)
    leading = np.where(classes == 0, np.uint64(0), _POWERS[np.minimum(widths, 63)])
    return low | leading


def _classes(values: UInts, order: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Class and number of remaining bits of each value."""
    classes = bit_length(values >> np.uint64(order))
    return classes, np.where(classes == 0, order, order + classes - 1)


def _best_order(values: UInts) -> int:
    """The order, 0 to 63, with the fewest bits: 1 + k for a number of l <= k bits, else 2 l - k."""
    counts = np.bincount(bit_length(values))
    lengths = np.arange(len(counts))
    return min(range(64), key=lambda k: int(counts @ np.where(lengths <= k, 1 + k, 2 * lengths - k)))


def _pack_varying(values: UInts, widths: npt.NDArray[np.int64]) -> bytes:
    """The low `widths` bits of each value, one after the other."""
    offsets = np.cumsum(widths) - widths
    bits = np.zeros(int(widths.sum()), dtype=np.uint8)
    for j in range(int(widths.max(initial=0))):
        has = widths > j
        bits[offsets[has] + j] = (values[has] >> np.uint64(j)) & np.uint64(1)
    return np.packbits(bits, bitorder="little").tobytes()


def _unpack_varying(source: Cursor, widths: npt.NDArray[np.int64]) -> UInts:
    """The inverse of `_pack_varying`."""
    total = int(widths.sum())
    data = np.frombuffer(source.take((total + 7) // 8), dtype=np.uint8)
    bits = np.unpackbits(data, bitorder="little")
    if bits[total:].any():
        raise source.damaged("padding bits are set")
    offsets = np.cumsum(widths) - widths
    values = np.zeros(len(widths), dtype=np.uint64)
    for j in range(int(widths.max(initial=0))):
        has = widths > j
        values[has] |= bits[offsets[has] + j].astype(np.uint64) << np.uint64(j)
    return values


def fold(values: npt.NDArray[np.int64]) -> UInts:
    """Zigzag over an array: 0, -1, 1, -2, ... become 0, 1, 2, 3, ...; any int64."""
    return ((values << 1) ^ (values >> 63)).view(np.uint64)


def unfold(values: UInts) -> npt.NDArray[np.int64]:
    """The inverse of `fold`."""
    return (values >> np.uint64(1)).view(np.int64) ^ -(values & np.uint64(1)).view(np.int64)

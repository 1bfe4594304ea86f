"""Integers under their own histogram: the codec of `indices`. The payload is described in `container`."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from benchmark.compression import ans
from benchmark.compression.bitpack import (
    bit_length,
    fold,
    pack_fixed,
    read_universal,
    unfold,
    unpack_fixed,
    write_universal,
)
from benchmark.compression.integers import Ints, as_integers, as_tensor, read_header, write_header
from benchmark.compression.varint import Cursor, unzigzag, varint, zigzag

_PACKED, _HISTOGRAM = 0, 1
_MAX_DISTINCT = 1 << 20  # of 2^24 slots of frequency; beyond, every value is rare and fixed width is as good
_MANTISSA = 4  # bits of a stored count below its leading one: 1.2e-4 bits per symbol on average, one code < 1 byte
_MAX_COUNT_CODE = 16 * 24 + 16  # of 2^28, the most elements that a section holds


def encode_indices(values: torch.Tensor | npt.NDArray) -> bytes:
    """Fixed width above the minimum, or a histogram and entropy-coded symbols: whichever is shorter."""
    flat, shape, code = as_integers(values)
    coded = _encode_histogram(flat)
    if coded is not None and len(coded) < _packed_bytes(flat):
        return write_header(code, _HISTOGRAM, shape) + coded
    return write_header(code, _PACKED, shape) + _encode_packed(flat)


def decode_indices(source: Cursor) -> torch.Tensor:
    """The inverse of `encode_indices`."""
    code, mode, shape, count = read_header(source)
    if mode == _PACKED:
        flat = _decode_packed(source, count)
    elif mode == _HISTOGRAM:
        flat = _decode_histogram(source, count)
    else:
        raise source.damaged(f"unknown mode {mode}")
    source.end()
    return as_tensor(flat, code, shape, source)


def _encode_packed(flat: Ints) -> bytes:
    if len(flat) == 0:
        return b""
    low, width = _range(flat)
    above = flat.view(np.uint64) - np.int64(low).view(np.uint64)  # modulo 2^64: the range may exceed int64
    return varint(zigzag(low)) + bytes([width]) + pack_fixed(above, width)


def _packed_bytes(flat: Ints) -> int:
    """Length of `_encode_packed` for at least one value."""
    low, width = _range(flat)
    return len(varint(zigzag(low))) + 1 + (len(flat) * width + 7) // 8


def _range(flat: Ints) -> tuple[int, int]:
    """The minimum and the bits of the largest distance to it."""
    low = int(flat.min())
    return low, (int(flat.max()) - low).bit_length()


def _decode_packed(source: Cursor, count: int) -> Ints:
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    low = unzigzag(source.varint())
    width = source.byte()
    if width > 64:
        raise source.damaged(f"a width of {width} bits")
    if width == 0:
        return np.full(count, low, dtype=np.int64)
    above = unpack_fixed(source, count, width)
    if low + int(above.max()) >= 1 << 63:
        raise source.damaged("a value is above the int64 range")
    above += np.int64(low).view(np.uint64)
    return above.view(np.int64)


def _encode_histogram(flat: Ints) -> bytes | None:
    """None when a table makes no sense: fewer than two distinct values, or too many."""
    if len(flat) == 0 or flat.min() == flat.max():
        return None
    distinct, counts, symbols = _count(flat)
    if len(distinct) > _MAX_DISTINCT:
        return None
    codes = quantise_counts(counts)
    positions = distinct.view(np.uint64)
    table = (
        varint(zigzag(int(distinct[0])))
        + varint(len(distinct))
        + write_universal(positions[1:] - positions[:-1] - np.uint64(1))
        + write_universal(fold(np.diff(codes, prepend=0)))
    )
    return table + ans.encode([(symbols, ans.model(ans.frequencies(expand_counts(codes))))])


def _decode_histogram(source: Cursor, count: int) -> Ints:
    first = unzigzag(source.varint())
    n = source.varint(min(_MAX_DISTINCT, 8 * source.left))  # a stored count takes at least one bit
    if n < 2:
        raise source.damaged(f"a histogram of {n} values")
    distinct = _read_distinct(source, first, n)
    codes = np.cumsum(unfold(read_universal(source, n)))
    if int(codes.min()) < 1 or int(codes.max()) > _MAX_COUNT_CODE:
        raise source.damaged("a count is out of range")
    freqs = ans.frequencies(expand_counts(codes))
    # A symbol takes at least -log2 of the largest frequency: a forged length must not take memory.
    if count * (ans.PRECISION - math.log2(int(freqs.max()))) > 8 * source.left + 64:
        raise source.damaged(f"{count} symbols do not fit into {source.left} bytes")
    decoder = ans.Decoder(source)
    symbols = decoder.decode(ans.model(freqs), count)
    decoder.end()
    return distinct[symbols]


def _read_distinct(source: Cursor, first: int, n: int) -> Ints:
    """The sorted distinct values (n,) from the smallest and the gaps."""
    gaps = read_universal(source, n - 1)
    if first + sum(gaps.tolist()) + n - 1 >= 1 << 63:
        raise source.damaged("a value is above the int64 range")
    offsets = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(gaps + np.uint64(1))])
    return (offsets + np.int64(first).view(np.uint64)).view(np.int64)


def _count(flat: Ints) -> tuple[Ints, Ints, ans.Symbols]:
    """Sorted distinct values (k,), their counts (k,) and the position of every element among them."""
    low = int(flat.min())
    spread = int(flat.max()) - low
    if spread > max(1 << 16, 2 * len(flat)):
        distinct, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
        return distinct, counts, inverse.astype(np.int32)
    above = flat - low  # a table of the whole range instead of a sort: 10 times faster
    table = np.bincount(above)
    present = np.flatnonzero(table)
    rank = np.zeros(len(table), dtype=np.int32)
    rank[present] = np.arange(len(present), dtype=np.int32)
    return present + low, table[present], rank[above]


def quantise_counts(counts: Ints) -> Ints:
    """Counts c >= 1 as small floating-point codes: exact below 32, then 5 significant bits, rounded.

    With e = max(0, bits(c) - 5) the code is 16 e + (c >> e, rounded half up): increasing in c without gaps.
    """
    shift = np.maximum(bit_length(counts.view(np.uint64)) - _MANTISSA - 1, 0)
    half = (1 << shift) >> 1
    return (shift << _MANTISSA) + ((counts + half) >> shift)


def expand_counts(codes: Ints) -> Ints:
    """The counts that the codes stand for; the inverse of `quantise_counts` up to its rounding."""
    shift = np.maximum((codes >> _MANTISSA) - 1, 0)
    counts: Ints = (codes - (shift << _MANTISSA)) << shift
    return counts

"""Integers under zero-mean Gaussians of given widths: the codec of `gaussian_indices`.

The payload is described in `container`. Elements are coded in groups of equal grid width, so that each group is
one call of the coder with one table; see `gaussian_table` for widths and tables.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from benchmark.compression import ans, gaussian_table
from benchmark.compression.bitpack import (
    fold,
    pack_fixed,
    read_universal,
    unfold,
    unpack_fixed,
    write_universal,
)
from benchmark.compression.integers import Ints, as_integers, as_tensor, read_header, write_header
from benchmark.compression.shapes import Shape
from benchmark.compression.varint import Cursor, varint

Std = torch.Tensor | npt.NDArray | float


@dataclass(frozen=True)
class _Group:
    """A run of elements of equal bucket, in the order of the coder."""

    where: slice
    base: int
    """The bucket of the table, after `shift` low bits are gone."""
    shift: int

    @property
    def reach(self) -> int:
        return gaussian_table.reach(self.base)


def encode_gaussian(values: torch.Tensor | npt.NDArray, std: Std) -> bytes:
    """`values` of any shape under N(0, std^2) on the integers; `std` broadcasts to their shape."""
    flat, shape, code = as_integers(values)
    out = bytearray(write_header(code, 0, shape))
    if len(flat) == 0:
        return bytes(out)
    buckets = _buckets(std, shape)
    order, groups = _grouped(buckets)
    ordered = flat if order is None else flat[order]
    coded, escaped, low_bits = [], [], bytearray()
    for shift, same in _by_shift(groups):
        part = ordered[same[0].where.start : same[-1].where.stop]
        high, low = _split(part, shift)
        low_bits += pack_fixed(low, shift)
        for group in same:
            begin = group.where.start - same[0].where.start
            own = high[begin : begin + group.where.stop - group.where.start]
            outside = (own > group.reach) | (own < -group.reach)
            symbols = np.where(outside, 2 * group.reach + 1, own + group.reach).astype(np.int32)
            coded.append((symbols, gaussian_table.model(group.base)))
            escaped.append(own[outside])
    outliers = np.concatenate(escaped)
    out += _checksum(buckets) + varint(len(outliers)) + write_universal(fold(outliers))
    return bytes(out + low_bits) + ans.encode(coded)


def decode_gaussian(source: Cursor, std: Std) -> torch.Tensor:
    """The inverse of `encode_gaussian`.

    Raises:
        ValueError: `std` is not the one of the encoder.
    """
    code, mode, shape, count = read_header(source)
    if mode != 0:
        raise source.damaged(f"unknown mode {mode}")
    if count == 0:
        source.end()
        return as_tensor(np.zeros(0, dtype=np.int64), code, shape, source)
    buckets = _buckets(std, shape)
    if source.take(4) != _checksum(buckets):
        raise ValueError(
            f"{source.what}: std differs from the one it was written with. Derive it from stored numbers only, by "
            "steps that give the same bits everywhere (a table of stored values, +, *, /; no exp or log)."
        )
    outliers = unfold(read_universal(source, source.varint(min(count, 8 * source.left))))
    order, groups = _grouped(buckets)
    low = np.zeros(count, dtype=np.uint64)
    for shift, same in _by_shift(groups):
        part = slice(same[0].where.start, same[-1].where.stop)
        low[part] = unpack_fixed(source, part.stop - part.start, shift)
    ordered = _decode_groups(source, groups, low, outliers)
    if order is None:
        return as_tensor(ordered, code, shape, source)
    flat = np.empty_like(ordered)
    flat[order] = ordered
    return as_tensor(flat, code, shape, source)


def _decode_groups(source: Cursor, groups: list[_Group], low: npt.NDArray[np.uint64], outliers: Ints) -> Ints:
    ordered = np.empty(len(low), dtype=np.int64)
    decoder = ans.Decoder(source)
    used = 0
    for group in groups:
        size = group.where.stop - group.where.start
        symbols = decoder.decode(gaussian_table.model(group.base), size)
        high = symbols.astype(np.int64) - group.reach
        escapes = np.flatnonzero(symbols == 2 * group.reach + 1)
        if used + len(escapes) > len(outliers):
            raise source.damaged("more outliers are announced than stored")
        high[escapes] = outliers[used : used + len(escapes)]
        used += len(escapes)
        ordered[group.where] = _join(high, low[group.where], group.shift)
    decoder.end()
    if used != len(outliers):
        raise source.damaged(f"{len(outliers)} outliers are stored, {used} are used")
    return ordered


def _buckets(std: Std, shape: Shape) -> gaussian_table.Buckets:
    """Grid positions of `std`, flat, one per value."""
    array = std.detach().cpu().double().numpy() if isinstance(std, torch.Tensor) else np.asarray(std)
    grid = gaussian_table.to_buckets(np.atleast_1d(array)).reshape(array.shape)
    try:
        return np.ascontiguousarray(np.broadcast_to(grid, shape)).reshape(-1)
    except ValueError as error:
        raise ValueError(f"std has shape {array.shape}, which does not broadcast to {shape}") from error


def _checksum(buckets: gaussian_table.Buckets) -> bytes:
    return zlib.crc32(buckets.astype("<u2", copy=False).data).to_bytes(4, "little")


def _grouped(buckets: gaussian_table.Buckets) -> tuple[npt.NDArray[np.intp] | None, list[_Group]]:
    """The stable order by bucket (None: as it is), and the groups by rising bucket."""
    sizes = np.bincount(buckets)
    present = np.flatnonzero(sizes)
    order = np.argsort(buckets, kind="stable") if len(present) > 1 else None  # a radix sort for 16 bits
    groups, start = [], 0
    for bucket in present.tolist():
        shift = gaussian_table.shift_of(bucket)
        stop = start + int(sizes[bucket])
        groups.append(_Group(slice(start, stop), bucket - shift * gaussian_table.STEPS, shift))
        start = stop
    return order, groups


def _by_shift(groups: list[_Group]) -> Iterator[tuple[int, list[_Group]]]:
    """Runs of groups of equal shift, rising."""
    for shift in sorted({group.shift for group in groups}):
        yield shift, [group for group in groups if group.shift == shift]


def _split(values: Ints, shift: int) -> tuple[Ints, npt.NDArray[np.uint64]]:
    """v = (high << shift) - half + low with 0 <= low < 2^shift, half = 2^(shift - 1); modulo 2^64."""
    if shift == 0:
        return values, np.zeros(len(values), dtype=np.uint64)
    half = np.int64(1 << shift - 1)
    high = (values >> shift) + ((values >> (shift - 1)) & 1)
    return high, ((values + half) & np.int64((1 << shift) - 1)).view(np.uint64)


def _join(high: Ints, low: npt.NDArray[np.uint64], shift: int) -> Ints:
    """The inverse of `_split`."""
    if shift == 0:
        return high
    return (high << shift) - np.int64(1 << shift - 1) + low.view(np.int64)

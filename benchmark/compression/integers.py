"""Integer arrays in and out of the coders: flat int64 inside, shape and dtype restored on the way out."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from benchmark.compression.shapes import MAX_ELEMENTS, Shape, read_shape, write_shape
from benchmark.compression.varint import Cursor

Ints = npt.NDArray[np.int64]

_DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_NUMPY = (np.bool_, np.uint8, np.int8, np.int16, np.int32, np.int64)
_LIMITS = ((0, 1), (0, 255), *((-(1 << b - 1), (1 << b - 1) - 1) for b in (8, 16, 32, 64)))


def as_integers(values: torch.Tensor | npt.NDArray) -> tuple[Ints, Shape, int]:
    """Flat int64 values in row-major order, the shape, and the code of the dtype to give back.

    The code is the position in bool, uint8, int8, int16, int32, int64. Wider unsigned types come back as int64.

    Raises:
        ValueError: not integers, a uint64 beyond the int64 range, or more than 2^28 elements.
    """
    if isinstance(values, torch.Tensor) and (values.is_floating_point() or values.is_complex()):
        raise ValueError(f"dtype {values.dtype} is not an integer or bool; quantise first, or use `tensor`")
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if array.dtype.kind not in "biu":
        raise ValueError(f"dtype {array.dtype} is not an integer or bool; quantise first, or use `tensor`")
    if array.size > MAX_ELEMENTS:
        raise ValueError(f"{array.size} elements in one section, at most {MAX_ELEMENTS}: write several sections")
    if array.dtype.kind == "u" and array.dtype.itemsize == 8 and array.size and int(array.max()) >= 1 << 63:
        raise ValueError(f"the value {int(array.max())} is above the int64 range")
    native = array.dtype.newbyteorder("=")
    code = next((i for i, dtype in enumerate(_NUMPY) if native == dtype), len(_NUMPY) - 1)
    return np.ascontiguousarray(array, dtype=np.int64).reshape(-1), array.shape, code


def write_header(code: int, mode: int, shape: Shape) -> bytes:
    """One byte with the dtype code (low half) and a mode (high half), then the shape."""
    return bytes([code | mode << 4]) + write_shape(shape)


def read_header(source: Cursor) -> tuple[int, int, Shape, int]:
    """The inverse of `write_header`: code, mode, shape, number of elements."""
    byte = source.byte()
    if byte & 15 >= len(_DTYPES):
        raise source.damaged(f"unknown dtype {byte & 15}")
    shape = read_shape(source, MAX_ELEMENTS)
    return byte & 15, byte >> 4, shape, math.prod(shape)


def as_tensor(flat: Ints, code: int, shape: Shape, source: Cursor) -> torch.Tensor:
    """The tensor of the written dtype and shape; values outside of the dtype are damage."""
    low, high = _LIMITS[code]
    if len(flat) and (int(flat.min()) < low or int(flat.max()) > high):
        raise source.damaged(f"a value lies outside of {_DTYPES[code]}")
    return torch.from_numpy(flat.astype(_NUMPY[code], copy=False)).reshape(shape)

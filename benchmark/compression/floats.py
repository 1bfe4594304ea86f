"""Floating-point tensors as raw little-endian values: the codecs of `tensor` and `tensors`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch

from benchmark.compression.shapes import Shape, read_shape, read_table, write_shape, write_table
from benchmark.compression.varint import Cursor

Storage = Literal["float32", "float16"]

_CODES: dict[str, int] = {"float32": 0, "float16": 1}
_FORMATS = ("<f4", "<f2")


def encode_tensor(tensor: torch.Tensor, dtype: Storage) -> bytes:
    """One tensor: dtype, shape, values in row-major order."""
    return bytes([_code(dtype)]) + write_shape(tensor.shape) + raw_values(tensor, dtype, "tensor")


def decode_tensor(source: Cursor) -> torch.Tensor:
    """The inverse of `encode_tensor`; always float32."""
    form = _read_format(source)
    shape = read_shape(source, source.left // form.itemsize)
    tensor = take_values(source, shape, form)
    source.end()
    return tensor


def encode_tensors(tensors: Mapping[str, torch.Tensor], dtype: Storage) -> bytes:
    """Many tensors: dtype, table of names and shapes, values one tensor after the other."""
    head = bytes([_code(dtype)]) + write_table([(name, tuple(t.shape)) for name, t in tensors.items()])
    values = [raw_values(tensor, dtype, f"tensor '{name}'") for name, tensor in tensors.items()]
    return head + b"".join(values)


def decode_tensors(source: Cursor) -> dict[str, torch.Tensor]:
    """The inverse of `encode_tensors`, in the written order."""
    form = _read_format(source)
    table = read_table(source, source.left // form.itemsize)
    tensors = {name: take_values(source, shape, form) for name, shape in table}
    source.end()
    return tensors


def raw_values(tensor: torch.Tensor, dtype: Storage, what: str) -> bytes:
    """Row-major little-endian values of a floating-point tensor, rounded to `dtype`.

    Raises:
        ValueError: not a real floating-point tensor, or a value that `dtype` cannot hold.
    """
    if not tensor.is_floating_point():
        raise ValueError(f"{what} has dtype {tensor.dtype}, not a real float; use `indices` for integers and bool")
    exact = tensor.detach().cpu()
    target = torch.float32 if dtype == "float32" else torch.float16
    stored = exact.to(target).contiguous()
    # float16 is a choice of precision for healthy numbers; float32 is the escape hatch that keeps inf and nan.
    bad = ~torch.isfinite(stored) if target == torch.float16 else torch.isinf(stored) & torch.isfinite(exact)
    if bad.any():
        value = exact.reshape(-1)[int(bad.reshape(-1).nonzero()[0])].item()
        limit = torch.finfo(target).max
        raise ValueError(f"{what} holds {value}, which {dtype} cannot (finite values up to {limit:.6g})")
    return stored.numpy().astype(_FORMATS[_CODES[dtype]], copy=False).tobytes()


def take_values(source: Cursor, shape: Shape, form: np.dtype) -> torch.Tensor:
    """The float32 tensor of `shape` whose values come next in `source`."""
    data = source.take(math.prod(shape) * form.itemsize)
    # torch, not numpy, gives the shape: numpy 1 knows no more than 32 dimensions.
    return torch.from_numpy(np.frombuffer(data, dtype=form).astype(np.float32)).reshape(shape)


def _code(dtype: str) -> int:
    if dtype not in _CODES:
        raise ValueError(f"storage dtype '{dtype}' is unknown; legal: {', '.join(_CODES)}")
    return _CODES[dtype]


def _read_format(source: Cursor) -> np.dtype:
    code = source.byte()
    if code >= len(_FORMATS):
        raise source.damaged(f"unknown storage dtype {code}")
    return np.dtype(_FORMATS[code])

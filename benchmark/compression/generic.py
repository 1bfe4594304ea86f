"""The generic codec: raw float32 tensors in sorted name order, then LZMA. For posteriors without a codec."""

from __future__ import annotations

import lzma
from collections.abc import Mapping

import numpy as np
import torch

from benchmark.compression.floats import raw_values, take_values
from benchmark.compression.shapes import read_table, write_table
from benchmark.compression.varint import Cursor, varint

_DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
)
_FLOAT32 = np.dtype("<f4")
_EXACT = 1 << 24  # integers up to here are exact in float32
_MEMORY = 256 << 20  # preset 9 decodes in 65 MiB; a forged header must not ask for gigabytes
_MAX_EXPANSION = 1 << 13  # LZMA shrinks constant data about 7000-fold at most


def encode_state(state: Mapping[str, torch.Tensor]) -> bytes:
    """Named tensors as bytes; every value must be exact in float32, the dtype is restored.

    Raises:
        ValueError: a tensor of float64, complex or another dtype, or with integers beyond 2^24.
    """
    items = sorted(state.items())
    raw = b"".join(raw_values(_as_float32(name, tensor), "float32", name) for name, tensor in items)
    # Behind the values, so that these stay aligned to 4 bytes, as LZMA's literal contexts assume.
    table = write_table([(name, tuple(tensor.shape)) for name, tensor in items])
    table += bytes(_DTYPES.index(tensor.dtype) for _, tensor in items)
    packed = lzma.compress(raw + table, format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, preset=9)
    return varint(len(raw)) + varint(len(table)) + packed


def decode_state(source: Cursor) -> dict[str, torch.Tensor]:
    """The inverse of `encode_state`, in sorted name order."""
    sizes = source.varint(), source.varint()
    content = _decompress(source, sum(sizes))
    values = Cursor(content[: sizes[0]], source.what)
    table = Cursor(content[sizes[0] :], source.what)
    entries = read_table(table, sizes[0] // _FLOAT32.itemsize)
    state = {}
    for name, shape in entries:
        code = table.byte()
        if code >= len(_DTYPES):
            raise source.damaged(f"unknown dtype {code}")
        state[name] = take_values(values, shape, _FLOAT32).to(_DTYPES[code])
    table.end()
    values.end()
    return state


def _as_float32(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype not in _DTYPES:
        legal = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
        raise ValueError(f"state tensor '{name}' has dtype {tensor.dtype}, not exact in float32; legal: {legal}")
    if not tensor.is_floating_point() and tensor.numel():
        low, high = int(tensor.min()), int(tensor.max())
        if low < -_EXACT or high > _EXACT:
            raise ValueError(f"state tensor '{name}' holds integers beyond 2^24, not exact in float32")
    return tensor.detach().to(torch.float32)


def _decompress(source: Cursor, size: int) -> memoryview:
    """The content of the xz stream that fills the rest of `source`, exactly `size` bytes."""
    if size > _MAX_EXPANSION * (source.left + 1):
        raise source.damaged(f"{size} bytes cannot come from {source.left} compressed ones")
    decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MEMORY)
    try:
        content = decoder.decompress(bytes(source.rest()), max_length=size + 1)
    except lzma.LZMAError as error:
        raise source.damaged(f"the LZMA stream is damaged ({error})") from error
    if len(content) != size or not decoder.eof or decoder.unused_data:
        raise source.damaged(f"the LZMA stream does not hold {size} bytes")
    return memoryview(content)

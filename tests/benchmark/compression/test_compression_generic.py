"""The generic codec: its definition, dtypes, and what it refuses."""

from __future__ import annotations

import lzma

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchmark.compression import BitReader, BitWriter, CorruptBitstream
from benchmark.compression.container import Kind, Section, pack
from benchmark.compression.varint import Cursor, varint

arrays = st.one_of(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_side=4), elements=st.floats(width=32)),
    hnp.arrays(np.float16, hnp.array_shapes(min_dims=0, max_side=4), elements=st.floats(width=16, allow_nan=False)),
    hnp.arrays(np.bool_, hnp.array_shapes(min_dims=0, min_side=0, max_side=4)),
    hnp.arrays(np.int64, hnp.array_shapes(min_dims=0, max_side=4), elements=st.integers(-(2**24), 2**24)),
)


def write(state: dict[str, torch.Tensor]) -> bytes:
    out = BitWriter()
    out.generic(state)
    return out.finish()


def parts(data: bytes) -> tuple[int, int, bytes]:
    """Bytes of the values, bytes of the table, the xz stream."""
    payload = pack_payload(data)
    cursor = Cursor(payload, "state")
    return cursor.varint(), cursor.varint(), bytes(cursor.rest())


def pack_payload(data: bytes) -> bytes:
    size = BitReader(data).sections()["state"]
    return data[-4 - size : -4]


@settings(max_examples=25)  # preset 9 takes 0.1 s and 0.7 GB even for nothing
@given(st.dictionaries(st.sampled_from(["w", "layer.0", "layer.1", "", "ü"]), arrays))
def test_any_state_comes_back_in_sorted_order(arrays: dict[str, np.ndarray]) -> None:
    state = {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
    data = write(state)
    back = BitReader(data).generic()
    assert list(back) == sorted(state)
    for name, tensor in state.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape
        assert back[name].numpy().tobytes() == tensor.contiguous().numpy().tobytes()
    assert write(back) == data


def test_the_stream_is_raw_float32_in_sorted_order_then_lzma() -> None:
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(50, 3, generator=generator) for name in ("b", "c", "a")}
    n_values, n_table, stream = parts(write(state))
    raw = b"".join(state[name].numpy().astype("<f4").tobytes() for name in ("a", "b", "c"))
    content = lzma.decompress(stream)
    assert n_values == len(raw)
    assert content[:n_values] == raw
    assert len(content) == n_values + n_table
    assert stream == lzma.compress(content, format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, preset=9)


def test_noise_shrinks_by_1_08() -> None:
    noise = torch.randn(300_000, generator=torch.Generator().manual_seed(0))
    assert 4 * len(noise) / len(write({"w": noise})) == pytest.approx(1.08, abs=0.01)


def test_constant_data_of_many_mebibytes_come_back() -> None:
    data = write({"w": torch.zeros(6_000_000)})
    assert len(data) < 5000
    assert int(BitReader(data).generic()["w"].count_nonzero()) == 0


def test_it_names_the_codec() -> None:
    assert BitReader(write({})).codec == "generic"
    assert BitReader(BitWriter().finish()).codec == "own"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.uint8, torch.int8, torch.int16, torch.int32])
def test_every_legal_dtype_comes_back(dtype: torch.dtype) -> None:
    tensor = torch.arange(100).to(dtype)
    back = BitReader(write({"x": tensor})).generic()["x"]
    assert back.dtype == dtype
    assert torch.equal(back, tensor)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(1, dtype=torch.float64), "'x' has dtype torch.float64, not exact in float32; legal: float32,"),
        (torch.ones(1, dtype=torch.complex64), "complex64"),
        (torch.tensor([2**24 + 1]), "integers beyond"),
        (torch.tensor([-(2**24) - 1]), "integers beyond"),
    ],
)
def test_what_float32_cannot_hold_is_refused(tensor: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BitWriter().generic({"x": tensor})


def test_a_stream_that_unpacks_to_more_than_announced_is_corrupt() -> None:
    bomb = lzma.compress(bytes(50_000_000), format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, preset=1)
    data = pack("generic", [Section("state", Kind.GENERIC, varint(8) + varint(1) + bomb)])
    with pytest.raises(CorruptBitstream, match="does not hold 9 bytes"):
        BitReader(data).generic()


def test_an_impossible_size_is_refused_before_memory_is_taken() -> None:
    small = lzma.compress(b"", format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, preset=9)
    data = pack("generic", [Section("state", Kind.GENERIC, varint(1 << 50) + varint(1) + small)])
    with pytest.raises(CorruptBitstream, match="cannot come from"):
        BitReader(data).generic()

"""Floating-point tensors: bits, shapes, precision on disk."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from benchmark.compression import BitReader, BitWriter
from benchmark.compression.floats import Storage

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
float32s = hnp.arrays(np.float32, shapes, elements=st.floats(width=32))
float16s = hnp.arrays(np.float16, shapes, elements=st.floats(width=16, allow_nan=False, allow_infinity=False))


def round_trip(tensor: torch.Tensor, dtype: Storage = "float32") -> tuple[torch.Tensor, int]:
    """What comes back, and the bytes of the section; writing it again must give the same bytes."""
    out = BitWriter()
    out.tensor("t", tensor, dtype)
    src = BitReader(out.finish())
    back = src.tensor("t")
    again = BitWriter()
    again.tensor("t", back, dtype)
    assert again.finish() == out.finish()
    return back, src.sections()["t"]


@given(float32s)
def test_float32_comes_back_bit_for_bit(array: npt.NDArray) -> None:
    back, size = round_trip(torch.from_numpy(array))
    assert back.dtype == torch.float32
    assert back.shape == array.shape
    assert back.numpy().tobytes() == array.tobytes()  # nan, inf and -0 included
    assert size == 2 + array.ndim + array.nbytes


@given(float16s)
def test_float16_takes_two_bytes_and_comes_back_as_float32(array: npt.NDArray) -> None:
    back, size = round_trip(torch.from_numpy(array), "float16")
    assert back.dtype == torch.float32
    assert back.numpy().tobytes() == array.astype(np.float32).tobytes()
    assert size == 2 + array.ndim + array.nbytes


def test_values_are_rounded_to_the_precision_on_disk() -> None:
    x = torch.tensor([1 / 3, -1e-3, 1e-9], dtype=torch.float64)
    assert torch.equal(round_trip(x)[0], x.float())
    assert torch.equal(round_trip(x, "float16")[0], x.half().float())
    assert torch.equal(round_trip(x.bfloat16())[0], x.bfloat16().float())


def test_the_memory_layout_does_not_matter() -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    views = (x.contiguous(memory_format=torch.channels_last), x.permute(3, 0, 2, 1), x[:, ::2], x[0, 0, 0, 0])
    for view in (*views, x[..., :1].expand(2, 3, 4, 5)):
        back, _ = round_trip(view)
        assert torch.equal(back, view)
        assert back.is_contiguous()


def test_a_parameter_is_written_without_its_graph_and_comes_back_plain() -> None:
    back, _ = round_trip(nn.Parameter(torch.ones(2)) * 3)
    assert back.tolist() == [3.0, 3.0]
    assert not back.requires_grad
    back += 1  # memory of its own, writable


@pytest.mark.parametrize(
    ("tensor", "dtype", "message"),
    [
        (torch.tensor([1.0, 70000.0]), "float16", r"holds 70000.0, which float16 cannot \(finite values up to 65504\)"),
        (torch.tensor([float("nan")]), "float16", "holds nan"),
        (torch.tensor([float("inf")]), "float16", "holds inf"),
        (torch.tensor([1e39], dtype=torch.float64), "float32", "holds 1e[+]39, which float32 cannot"),
        (torch.tensor([1]), "float32", "use `indices`"),
        (torch.tensor([1j]), "float32", "not a real float"),
        (torch.tensor([1.0]), "float8", "storage dtype 'float8' is unknown; legal: float32, float16"),
    ],
)
def test_a_value_that_would_not_come_back_is_refused(tensor: torch.Tensor, dtype: Storage, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BitWriter().tensor("t", tensor, dtype)
    with pytest.raises(ValueError, match=message):
        BitWriter().tensors("t", {"layer.weight": tensor}, dtype)


def test_the_error_names_the_tensor() -> None:
    with pytest.raises(ValueError, match=r"tensor 'b' holds 1000000\.0, which float16 cannot"):
        BitWriter().tensors("t", {"a": torch.ones(1), "b": torch.tensor([1e6])}, "float16")


@given(st.dictionaries(st.text(max_size=12), float32s, max_size=5))
def test_many_tensors_come_back_in_order(arrays: dict[str, npt.NDArray]) -> None:
    out = BitWriter()
    try:
        "".join(arrays).encode("utf-8")
    except UnicodeEncodeError:
        with pytest.raises(ValueError):
            out.tensors("t", {name: torch.from_numpy(array) for name, array in arrays.items()})
        return
    out.tensors("t", {name: torch.from_numpy(array) for name, array in arrays.items()})
    back = BitReader(out.finish()).tensors("t")
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].shape == array.shape
        assert back[name].numpy().tobytes() == array.tobytes()
    again = BitWriter()
    again.tensors("t", back)
    assert again.finish() == out.finish()


def test_the_overhead_per_tensor_is_small() -> None:
    state = {
        f"layer{i}.{j}.bn{k}.{kind}": torch.ones(3)
        for i in range(1, 5)
        for j in range(2)
        for k in (1, 2)
        for kind in ("weight", "bias", "running_mean", "running_var")
    }
    out = BitWriter()
    out.tensors("rest", state)
    size = BitReader(out.finish()).sections()["rest"]
    assert size - 4 * 3 * len(state) <= 14 * len(state)
    half = BitWriter()
    half.tensors("rest", state, "float16")
    assert BitReader(half.finish()).sections()["rest"] == size - 2 * 3 * len(state)


def test_an_empty_tensor_with_absurd_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match="too large to be written"):
        BitWriter().tensor("t", torch.empty(0, 1 << 50))

"""Speed of the coders on ten million integers, against 3 seconds each way on one core."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.compression import BitReader, BitWriter

N = 10_000_000
LIMIT_SECONDS = 3.0

Write = Callable[[BitWriter], None]
Read = Callable[[BitReader], torch.Tensor]


def _indices(scale: float) -> tuple[torch.Tensor, Write, Read]:
    values = torch.from_numpy(np.rint(np.random.default_rng(0).normal(0, scale, N)).astype(np.int32))
    return values, lambda out: out.indices("v", values), lambda src: src.indices("v")


def _gaussian(std: Any) -> tuple[torch.Tensor, Write, Read]:
    values = torch.from_numpy(np.rint(np.random.default_rng(0).normal(0, std, N)).astype(np.int32))
    return (
        values,
        lambda out: out.gaussian_indices("v", values, std),
        lambda src: src.gaussian_indices("v", std),
    )


def _widths(distinct: int) -> np.ndarray:
    """Float32 widths around 10, log-normal, of which `distinct` differ."""
    rng = np.random.default_rng(1)
    return rng.choice((10 * np.exp(rng.normal(size=distinct))).astype(np.float32), N)


@pytest.mark.benchmarks
@pytest.mark.parametrize(
    ("what", "make"),
    [
        ("indices, 12 values", lambda: _indices(1.0)),
        ("indices, 110 values", lambda: _indices(10.0)),
        ("indices, 10 000 values", lambda: _indices(1000.0)),
        ("gaussian, one width", lambda: _gaussian(10.0)),
        ("gaussian, 40 widths", lambda: _gaussian(_widths(40))),
        ("gaussian, all widths differ", lambda: _gaussian(_widths(N))),
    ],
)
def test_ten_million_integers_take_seconds(what: str, make: Callable[[], tuple[torch.Tensor, Write, Read]]) -> None:
    values, write, read = make()
    out = BitWriter()
    start = time.perf_counter()
    write(out)
    encoded = time.perf_counter() - start
    data = out.finish()
    src = BitReader(data)
    start = time.perf_counter()
    back = read(src)
    decoded = time.perf_counter() - start
    assert torch.equal(back, values)
    print(f"\n{what}: encode {encoded:.2f} s, decode {decoded:.2f} s, {8 * len(data) / N:.4f} bits per value")
    assert encoded < LIMIT_SECONDS
    assert decoded < LIMIT_SECONDS

"""Cost of writing a compact posterior. Prints what it measures."""

from __future__ import annotations

import time

import pytest
import torch
from paired_timing import threads
from small_problems import bytes_of

from methods.hmc_rebasin.posterior import CompactPosterior


@pytest.mark.benchmarks
def test_ten_million_weights_are_encoded_in_three_seconds_of_one_core():
    g = torch.Generator().manual_seed(0)
    shapes = {f"conv{i}.weight": (512, 512, 3, 3) for i in range(4)} | {"fc.weight": (1000, 512)}
    mu = {name: 0.02 * torch.randn(shape, generator=g) for name, shape in shapes.items()}
    sigma = {name: 0.01 * (0.7 * torch.randn(shape, generator=g)).exp() for name, shape in shapes.items()}
    with threads(1):
        start = time.process_time()
        posterior = CompactPosterior.of(mu, sigma, {})
        rounded = time.process_time() - start
        data = bytes_of(posterior)
        written = time.process_time() - start - rounded
    weights = sum(tensor.numel() for tensor in mu.values())
    bits = 8 * len(data) / weights
    print(f"\n{weights:,} weights: rounded in {rounded:.2f} s, written in {written:.2f} s, {bits:.2f} bits each")
    assert rounded + written < 3 * weights / 1e7

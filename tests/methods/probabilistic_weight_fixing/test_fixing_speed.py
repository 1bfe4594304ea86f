"""Cost of clustering rounds in seconds and bytes. Prints what it measures.

Seconds are those of the process on one thread, and of two runs the shorter, so that others on the machine hardly
matter.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from paired_timing import threads
from torch import nn
from torchvision.models import resnet18, resnet50

from benchmark.cost import peak_memory
from methods.fixed_weights.fixing import Fixing
from methods.probabilistic_weight_fixing.rounds import fix_round, fixed_target
from methods.probabilistic_weight_fixing.settings import FixingSettings
from methods.probabilistic_weight_fixing.sigma import initial_sigma

FRACTIONS = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99, 1.0)


def gaussian_weights(build: Callable[[], nn.Module]) -> Fixing:
    """Weights of all convolutional and linear layers, of standard deviation 1/sqrt(fan-in), and their initial sigma."""
    with torch.device("meta"):
        shapes = [value.shape for value in build().parameters() if value.ndim >= 2]
    n = sum(shape.numel() for shape in shapes)
    mu, sigma, start = torch.empty(n), torch.empty(n), 0
    generator = torch.Generator().manual_seed(0)
    for shape in shapes:
        own = slice(start, start + shape.numel())
        mu[own].normal_(0, shape[1:].numel() ** -0.5, generator=generator)
        sigma[own] = initial_sigma(mu[own], FixingSettings())
        start = own.stop
    return Fixing.of(mu, sigma, 7)


def ten_rounds(weights: Fixing) -> list[float]:
    """Process seconds of each, with the permanent mask."""
    seconds = []
    for fraction in FRACTIONS:
        start = time.process_time()
        fix_round(weights, fixed_target(fraction, len(weights)), 1.0, FixingSettings())
        seconds.append(time.process_time() - start)
    assert bool(weights.fixed.all())
    return seconds


def resident_memory() -> int:
    """Of this process, bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmRSS")


def cost_of_ten_rounds(build: Callable[[], nn.Module]) -> tuple[int, list[float], int]:
    """(weights, seconds of each, bytes beyond the weights), in a process whose peak is that of a round."""
    with threads(1):
        weights = gaussian_weights(build)
        resident = resident_memory()
        seconds = ten_rounds(weights)
        return len(weights), seconds, (peak_memory() or 0) - resident


def test_a_million_weights_take_less_than_half_a_second_a_round():
    """A tenth of ResNet-18, quick enough for every run of the tests."""
    mu = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0)) * 0.03
    with threads(1):
        seconds = ten_rounds(Fixing.of(mu, initial_sigma(mu, FixingSettings()), 7))
    assert max(seconds) < 0.45
    assert sum(seconds) < 2.4


@pytest.mark.benchmarks
@pytest.mark.parametrize(
    ("build", "weights", "slowest", "all_ten"),
    [(resnet18, 11_678_912, 1.5, 8.5), (resnet50, 25_502_912, 2.5, 19.0)],
    ids=["resnet18", "resnet50"],
)
def test_rounds_take_seconds_and_little_memory(
    build: Callable[[], nn.Module], weights: int, slowest: float, all_ten: float
):
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as alone:
        first, second = (alone.submit(cost_of_ten_rounds, build).result() for _ in range(2))
    n, beyond = first[0], max(first[2], second[2])
    seconds = [min(pair) for pair in zip(first[1], second[1], strict=True)]
    print(f"\n{n:,} weights, one thread: slowest round {max(seconds):.2f} s, ten rounds {sum(seconds):.2f} s")
    print(f"  each {' '.join(f'{value:.2f}' for value in seconds)}")
    print(f"  {beyond / 2**20:.0f} MiB beyond the weights, {beyond / n:.1f} bytes per weight")
    assert n == weights
    assert max(seconds) < slowest
    assert sum(seconds) < all_ten
    assert beyond < min(40 * n, 2**30)


@pytest.mark.benchmarks
def test_rounds_that_cluster_all_anew_take_three_times_as_long_at_most():
    with threads(1):
        weights = gaussian_weights(resnet18)
        total = 0.0
        for fraction in FRACTIONS:
            weights.fixed.zero_()
            start = time.process_time()
            fix_round(weights, fixed_target(fraction, len(weights)), 1.0, FixingSettings())
            total += time.process_time() - start
    print(f"\n{len(weights):,} weights, one thread, all clustered anew: ten rounds {total:.2f} s")
    assert total < 3 * 8.5

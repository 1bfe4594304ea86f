"""Cost of clustering in seconds. Prints what it measures."""

from __future__ import annotations

import time

import pytest
import torch
from paired_timing import threads
from torchvision.models import resnet18

from methods.fixed_weights.fixing import Fixing
from methods.weight_fixing.candidates import grid_bits
from methods.weight_fixing.config import WfnConfig
from methods.weight_fixing.iterations import fix_iteration, fixed_quota

pytestmark = pytest.mark.benchmarks

DELTA = 0.01


def gaussian_weights() -> Fixing:
    """As many as resnet18 has in layers, of standard deviation 1/sqrt(fan-in)."""
    with torch.device("meta"):
        shapes = [value.shape for value in resnet18().parameters() if value.ndim >= 2]
    generator = torch.Generator().manual_seed(0)
    pieces = [torch.randn(shape.numel(), generator=generator) * shape[1:].numel() ** -0.5 for shape in shapes]
    w = torch.cat(pieces)
    return Fixing.of(w, None, grid_bits(DELTA), torch.int32)


def seconds_of(weights: Fixing, fraction: float, distance: float) -> float:
    """Of the process, whatever else the machine does."""
    start = time.process_time()
    fix_iteration(weights, fixed_quota(fraction, len(weights)), distance)
    return time.process_time() - start


def test_fixing_all_weights_of_a_resnet_at_once_takes_less_than_a_minute():
    with threads(1):
        weights = gaussian_weights()
        seconds = seconds_of(weights, 1.0, DELTA)
    print(f"\n{len(weights):,} weights, one thread, one iteration that fixes all: {seconds:.2f} s")
    assert len(weights) == 11_678_912
    assert bool(weights.fixed.all())
    assert seconds < 10


def test_ten_iterations_take_less_than_one_that_fixes_all_may():
    config = WfnConfig(delta=DELTA)
    with threads(1):
        weights = gaussian_weights()
        plan = zip(config.fractions, config.distances(), strict=True)
        seconds = [seconds_of(weights, fraction, distance) for fraction, distance in plan]
    print(f"\n{len(weights):,} weights, one thread, each of ten iterations: {' '.join(f'{s:.2f}' for s in seconds)} s")
    assert bool(weights.fixed.all())
    assert sum(seconds) < 15

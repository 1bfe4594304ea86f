"""Cost of a round against the clustering that compares every weight with every value, again for every pick."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from numpy.typing import NDArray
from paired_timing import threads
from test_fixing_speed import gaussian_weights, resident_memory
from torch import Tensor
from torchvision.models import resnet18, resnet50

from benchmark.cost import peak_memory
from methods.fixed_weights.fixing import Fixing
from methods.probabilistic_weight_fixing.candidates import candidate_codes
from methods.probabilistic_weight_fixing.free import DISTANCE_FLOOR
from methods.probabilistic_weight_fixing.rounds import fix_round, fixed_target, schedule
from methods.probabilistic_weight_fixing.settings import FixingSettings
from methods.probabilistic_weight_fixing.sigma import initial_sigma

SETTINGS = FixingSettings()


def released_round(mu: Tensor, sigma: Tensor, target: int, b: int) -> Tensor:
    """Codes (N,) int64, -1 << 62 where free. All distances in float64, (K, n), for every pick, as released."""
    code, left = torch.full((len(mu),), -(1 << 62)), target
    free = torch.arange(len(mu))
    for omega, delta in schedule(1.0, SETTINGS):
        if left <= 0:
            break
        alive = torch.from_numpy(candidate_codes(omega, float(mu[free].abs().max()), b))
        while left > 0 and len(alive):
            own, scale = mu[free].double(), sigma[free].clamp(min=DISTANCE_FLOOR).double()
            distance = (own - alive[:, None] * 2.0**-b).abs_().div_(scale)  # (K, n)
            near = distance <= delta
            near |= (alive == 0)[:, None] & (own.abs() < 2.0**-b)
            votes = near.sum(1)
            best = int(votes.argmax())
            if votes[best] == 0:
                break
            members = near[best].nonzero().squeeze(1)
            order = distance[best, members].sort(stable=True).indices
            members = members[order[:left]]
            code[free[members]] = alive[best]
            left -= len(members)
            keep = torch.ones(len(free), dtype=torch.bool)
            keep[members] = False
            free, alive = free[keep], alive[alive != alive[best]]
    return code


def cost_of(way: str, n: int, fraction: float) -> tuple[float, int, NDArray]:
    """(process seconds, bytes beyond the weights, codes) of a round, in a process of its own; one thread."""
    with threads(1):
        mu = torch.randn(n, generator=torch.Generator().manual_seed(0)) * 0.03
        weights = Fixing.of(mu, initial_sigma(mu, SETTINGS), 7)
        resident, target = resident_memory(), fixed_target(fraction, n)
        start = time.process_time()
        if way == "released":
            code = released_round(weights.mu, weights.deviations, target, 7)
        else:
            fix_round(weights, target, 1.0, SETTINGS)
            code = weights.code.long().masked_fill_(~weights.fixed, -(1 << 62))
        return time.process_time() - start, (peak_memory() or 0) - resident, code.numpy()


@pytest.mark.benchmarks
@pytest.mark.parametrize(("fraction", "times"), [(0.2, 3), (0.6, 8), (0.9, 16)])
def test_a_round_is_many_times_as_fast_as_all_distances_and_finds_the_same_codes(fraction: float, times: float):
    n, spawn = 1_000_000, multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as alone:
        ours = alone.submit(cost_of, "ours", n, fraction).result()
        theirs = alone.submit(cost_of, "released", n, fraction).result()
    print(f"\n{n:,} weights, p = {fraction}: {ours[0]:.2f} s against {theirs[0]:.2f} s, x{theirs[0] / ours[0]:.0f}")
    print(f"  beyond the weights {ours[1] / 2**20:.0f} MiB against {theirs[1] / 2**20:.0f} MiB")
    assert int((ours[2] != theirs[2]).sum()) == 0
    assert theirs[0] > times * ours[0]
    assert theirs[1] > 2 * ours[1]


@pytest.mark.benchmarks
@pytest.mark.parametrize(("build", "most"), [(resnet18, 1.0), (resnet50, 2.5)], ids=["resnet18", "resnet50"])
def test_two_threads_fix_the_weights_of_a_resnet_in_seconds(build, most: float):
    def seconds(fraction: float) -> float:
        weights = gaussian_weights(build)
        start = time.perf_counter()
        fix_round(weights, fixed_target(fraction, len(weights)), 1.0, SETTINGS)
        return time.perf_counter() - start

    with threads(2):
        seconds(0.2)  # warm up
        first, at_once = seconds(0.2), seconds(0.9)
    print(f"\ntwo threads: the first round, which is the slowest, {first:.2f} s (target {most:g} s)")
    print(f"  nine tenths of all weights in a single round {at_once:.2f} s")
    assert first < most

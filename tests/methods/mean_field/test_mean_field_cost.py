"""Cost of a step, of its memory and of prediction against the deterministic network. Prints what it measures."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import pytest
import torch
from mean_field_cases import recommended_step
from paired_timing import interleaved, threads
from sgd_step import sgd_step
from torch.profiler import ProfilerActivity, profile

from benchmark import Split, weights_of
from benchmark.predict import BATCH_SIZE, predict
from methods.finetuning.select import select
from methods.mean_field.posterior import GaussianPosterior
from tasks.networks.catalogue import CifarResNet

pytestmark = pytest.mark.benchmarks
MIB = 2**20


def resnet18() -> torch.nn.Module:
    torch.manual_seed(0)
    return CifarResNet().build("resnet18", (3, 32, 32), 10)


@pytest.fixture
def two_threads():
    with threads(2):
        yield


def test_a_training_step_costs_at_most_five_percent_more(two_threads):
    base = resnet18()
    inputs, labels = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))
    plain, (noisy, _) = sgd_step(base), recommended_step(base, 128)
    plain_seconds, ratio = interleaved(lambda: plain(inputs, labels), lambda: noisy(inputs, labels), rounds=12)
    print(f"training step, resnet18, 128 x 3 x 32 x 32: {plain_seconds:.3f} s plain, mean_field {ratio:.3f} times that")
    assert ratio <= 1.05


def test_predicting_with_draws_costs_at_most_five_percent_more_than_as_many_passes(two_threads):
    base = resnet18().eval()
    data = Split(torch.randn(512, 3, 32, 32), torch.randint(10, (512,)))
    own = weights_of(base)
    chosen = set(select(base, "weights", train_rest=True).bayesian)
    mean = {name: own[name] for name in own if name in chosen}
    posterior = GaussianPosterior(
        mean,
        {name: torch.full_like(tensor, -6.0) for name, tensor in mean.items()},
        {name: own[name] for name in own if name not in chosen},
    )
    draws = 3

    @torch.no_grad()
    def passes() -> None:
        for _ in range(draws):
            for inputs, _ in data.batches(BATCH_SIZE):
                base(inputs).double().log_softmax(-1)

    def predicted() -> None:
        predict(base, posterior, data, draws, torch.Generator().manual_seed(0))

    passes_seconds, ratio = interleaved(passes, predicted, rounds=4)
    print(f"{draws} draws of 512 images, resnet18: {passes_seconds:.3f} s of passes, predicting {ratio:.3f} times that")
    assert ratio <= 1.05


def peak_bytes(of: Callable[[], object]) -> int:
    """Largest sum of tensors that are alive at once and were allocated by `of`."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = of()
    assert kept is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in events))


def test_memory_beyond_a_deterministic_step_is_four_times_the_bayesian_weights():
    base = resnet18()
    inputs, labels = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))

    def trained(step: Callable[[torch.Tensor, torch.Tensor], float]) -> object:
        for _ in range(2):
            step(inputs, labels)
        return step

    size = recommended_step(base, 8)[1].mu.flat.nbytes
    plain = peak_bytes(lambda: trained(sgd_step(base)))
    noisy = peak_bytes(lambda: trained(recommended_step(base, 8)[0]))
    times = (noisy - plain) / size
    print(f"\npeak: {plain / MIB:.0f} MiB plain, {noisy / MIB:.0f} MiB mean_field; {times:.2f} x {size / MIB:.0f} MiB")
    assert times <= 4.05  # psi, the sample that becomes its gradient, two moments of Adam

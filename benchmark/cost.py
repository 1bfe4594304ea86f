"""Measuring what a run costs: memory of this process, latency of a prediction, multiply-accumulates."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmark.contracts import Posterior
from benchmark.predict import Pool, effective_draws
from benchmark.weights import evaluating, forward

LATENCY_BATCHES = (1, 256)
WARM_UP_CALLS = 10
TIMED_CALLS = 50
BRIEF_SECONDS = 0.5
BRIEF_CALLS = 3


def peak_memory(pid: int | str = "self") -> int | None:
    """Peak resident memory of a process in bytes (VmHWM), None where the system does not tell.

    Not `ru_maxrss`: that one survives fork and exec and would report a parent's peak.
    """
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as handle:
            for line in handle:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


@torch.inference_mode()
def latency(
    network: nn.Module, posterior: Posterior, examples: Tensor, draws: int, generator: torch.Generator, brief: bool
) -> dict[str, Any]:
    """Milliseconds of one whole prediction: S draws made from the posterior, S forward passes, pooling.

    examples: (n, C, H, W) on the run's device; a batch larger than n repeats them. Batch sizes 1 and 256; 10 warm-up
    calls, 50 timed, the device synchronised before each clock reading; median and inter-quartile range. `brief` stops
    a batch size after 0.5 s (3 timed calls at least) and records how many calls were made.
    """
    draws = effective_draws(posterior, draws)
    result: dict[str, Any] = {
        "device": device_name(examples.device),
        "dtype": str(examples.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "draws": draws,
        "mode": "brief" if brief else "full",
    }
    for size in LATENCY_BATCHES:
        batch = examples[torch.arange(size, device=examples.device) % len(examples)]
        with evaluating(network):
            seconds = _timed_calls(
                lambda batch=batch: _one_call(network, posterior, batch, draws, generator), batch, brief
            )
        quartiles = statistics.quantiles(seconds, n=4, method="inclusive")
        result[f"batch_{size}"] = {
            "median_ms": round(1e3 * quartiles[1], 4),
            "q25_ms": round(1e3 * quartiles[0], 4),
            "q75_ms": round(1e3 * quartiles[2], 4),
            "calls": len(seconds),
        }
    return result


def _one_call(network: nn.Module, posterior: Posterior, batch: Tensor, draws: int, generator: torch.Generator) -> None:
    pool = Pool()
    for weights in posterior.draws(draws, generator):
        pool.add(posterior.log_probs(forward(network, weights, batch).double()))
    pool.result()


def _timed_calls(call: Any, batch: Tensor, brief: bool) -> list[float]:
    def clock() -> float:
        if batch.is_cuda:
            torch.cuda.synchronize(batch.device)
        return time.perf_counter()

    begun = clock()
    for _ in range(WARM_UP_CALLS):
        call()
        if brief and clock() - begun > BRIEF_SECONDS / 4:
            break
    seconds: list[float] = []
    begun = clock()
    while len(seconds) < TIMED_CALLS:
        start = clock()
        call()
        seconds.append(clock() - start)
        if brief and len(seconds) >= BRIEF_CALLS and clock() - begun > BRIEF_SECONDS:
            break
    return seconds


def device_name(device: torch.device) -> str:
    """The model of a GPU, or of the CPU."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    from benchmark.provenance import environment

    return str(environment()["processor"])


def macs_per_forward(network: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of one forward pass in eval mode for one example (C, H, W).

    Counted by torch's FLOP counter, halved, with attention forced to kernels that it counts. Not counted: norm layers,
    activations, pooling, biases, drawing weights, de-quantising.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        counting = FlopCounterMode(display=False)
        with evaluating(network), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counting as counter:
            network(example.unsqueeze(0))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return int(counter.get_total_flops()) // 2

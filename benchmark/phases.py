"""The two phases of a run that execute a method's code: `fit` and `evaluate`. Each runs in a process of its own.

`fit` sees training and validation data and leaves `posterior.bin`. `evaluate` starts from those bytes and the
architecture, in a process that never held anything else of the run, and leaves predictions and measurements.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmark.compression import BitReader, BitWriter
from benchmark.contracts import Posterior, Weights
from benchmark.cost import device_name, latency, macs_per_forward, peak_memory
from benchmark.errors import PluginError
from benchmark.evaluation import (
    Predictor,
    draws_generator,
    predicted_for_detection,
    predicted_splits,
    predicted_under_shift,
)
from benchmark.files import write_bytes, write_json, write_via
from benchmark.identity import Protocol, RunSpec
from benchmark.metrics.compression import score_weights
from benchmark.operation import Operation
from benchmark.predict import effective_draws
from benchmark.problem import (
    decode_posterior,
    method_of,
    network_of,
    required_split,
    task_of,
)
from benchmark.publish import sealed
from benchmark.runfolder import RunFolder
from benchmark.seeds import seed_from
from benchmark.team.fitting import Lent, team_of
from benchmark.weights import buffer_count, parameter_count


def fit(
    run: RunFolder,
    spec: RunSpec,
    operation: Operation,
    device: torch.device,
    stop_requested: Callable[[], bool],
    before_write: Callable[[], None],
    on_progress: Callable[[dict[str, float]], None],
) -> None:
    """Learn the posterior and write it. Files: `checkpoint/`, `history.jsonl`, `posterior.bin`, `fit.json` (last).

    When decoding the written bytes does not give back the very same draws, predictions of the posterior as fitted are
    kept in `before.npz`, so that the loss by encoding is known.
    """
    method, config = method_of(spec)
    with team_of(run, method, operation, device, before_write) as (team, device):
        lent = Lent(run, spec, operation, device, team)
        problem, ctx = lent.problem, lent.context(stop_requested, before_write, on_progress)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        started = time.monotonic()
        try:
            posterior = method.fit(problem, ctx, config)
            _synchronise(device)
        finally:
            ctx.close()
        seconds = time.monotonic() - started
    if not isinstance(posterior, method.posterior_type()):
        raise PluginError(
            f"method '{method.name}' returned a {type(posterior).__name__}; its posterior_type() says "
            f"{method.posterior_type().__name__}."
        )
    memory = {"peak_memory": peak_memory(), **_cuda_memory(device)}
    started = time.monotonic()
    writer = BitWriter()
    posterior.encode(writer)
    data = writer.finish()
    before_write()
    write_bytes(run.file("posterior.bin"), data)
    encode_seconds = time.monotonic() - started
    lossless = _lossless(run, spec, posterior, device)
    record = {
        "facts": _plain(posterior.facts()),
        "fit_seconds": seconds,
        "encode_seconds": encode_seconds,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "lossless": lossless,
        "needs": lent.lineage,
        "parameters": parameter_count(problem.network),
        "buffers": buffer_count(problem.network),
        **memory,
    }
    before_write()
    write_json(run.file("fit.json"), sealed(record))


def evaluate(
    run: RunFolder, spec: RunSpec, operation: Operation, device: torch.device, before_write: Callable[[], None]
) -> None:
    """Predict from the stored bytes and measure. Files: `predictions.npz`, then `evaluation.json`."""
    posterior = decode_posterior(run, spec, device)
    network = network_of(spec, seed_from("architecture"), device)
    draws = Protocol(**spec.protocol).draws
    predictor = Predictor(spec, network, posterior, device, operation.micro_batch)
    begun = time.monotonic()
    arrays = predicted_splits(predictor)
    predicted = time.monotonic()
    detection, attacks = predicted_for_detection(predictor)
    detected = time.monotonic()
    arrays |= detection | predicted_under_shift(predictor)
    seconds = {"detection": detected - predicted, "shift": time.monotonic() - detected}
    before_write()
    _save_arrays(run, "predictions.npz", arrays)
    data = run.file("posterior.bin").read_bytes()
    reader = BitReader(data)
    record = {
        "posterior_sha256": hashlib.sha256(data).hexdigest(),
        "device": device_name(device),
        "predict_seconds": predicted - begun,
        "more_seconds": seconds,
        "draws": effective_draws(posterior, draws),
        "score": posterior.score_name if "test.score" in arrays else None,
        "attacks": attacks,
        "codec": reader.codec,
        "sections": reader.sections(),
        "weights": _weight_statistics(network, posterior),
        **_measured(spec, network, posterior, draws, operation, device),
    }
    before_write()
    write_json(run.file("evaluation.json"), sealed(record))


def _measured(
    spec: RunSpec, network: nn.Module, posterior: Posterior, draws: int, operation: Operation, device: torch.device
) -> dict[str, Any]:
    examples = required_split(spec, "test", device).first(256).inputs
    if operation.latency == "off":
        timed = None
    else:
        brief = operation.latency == "brief"
        timed = latency(network, posterior, examples, draws, draws_generator(spec), brief)
    return {"macs": macs_per_forward(network, examples[0]), "latency": timed}


def _lossless(run: RunFolder, spec: RunSpec, posterior: Posterior, device: torch.device) -> bool:
    """Whether the decoded posterior makes the very same draws; if not, the test predictions before encoding are
    stored (by the suite, after `fit` has returned: the method never sees them)."""
    decoded = decode_posterior(run, spec, device)
    draws = Protocol(**spec.protocol).draws
    task, config = task_of(spec)
    logits = torch.linspace(-3, 3, task.info(config).n_classes, dtype=torch.float64, device=device).unsqueeze(0)
    same_link = torch.equal(posterior.log_probs(logits), decoded.log_probs(logits))
    if same_link and _same_draws(posterior, decoded, effective_draws(posterior, draws), spec):
        return True
    network = network_of(spec, seed_from("architecture"), device)
    _save_arrays(run, "before.npz", predicted_splits(Predictor(spec, network, posterior, device)))
    return False


def _same_draws(one: Posterior, other: Posterior, draws: int, spec: RunSpec) -> bool:
    pairs = zip(one.draws(draws, draws_generator(spec)), other.draws(draws, draws_generator(spec)), strict=True)
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


def _weight_statistics(network: nn.Module, posterior: Posterior) -> dict[str, Any]:
    """Distinct values, zeros and entropy of the decoded mean weights; over all members for a finite mixture."""
    names = [name for name, _ in network.named_parameters()]

    def arrays(weights: Weights) -> dict[str, np.ndarray]:
        return {name: weights[name].detach().float().cpu().numpy().copy() for name in names}

    mean = posterior.mean()
    if mean is not None:
        return score_weights(arrays(mean))
    if posterior.support is not None:
        return score_weights([arrays(draw) for draw in posterior.draws(posterior.support, torch.Generator())])
    return score_weights(None)


def _save_arrays(run: RunFolder, name: str, arrays: dict[str, np.ndarray]) -> None:
    def save(path: Any) -> None:
        with open(path, "wb") as handle:
            np.savez(handle, allow_pickle=False, **arrays)

    write_via(run.file(name), save)


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts as plain JSON types; non-finite numbers become text."""
    plain: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, str | bool | int):
            plain[name] = value
        else:
            number = float(value)
            plain[name] = number if np.isfinite(number) else str(number)
    return plain


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _cuda_memory(device: torch.device) -> dict[str, int]:
    if device.type != "cuda":
        return {}
    return {
        "cuda_allocated": torch.cuda.max_memory_allocated(device),
        "cuda_reserved": torch.cuda.max_memory_reserved(device),
    }

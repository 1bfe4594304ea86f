"""Made-up runs for tests of the leaderboard: specifications, results as the suite writes them, records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmark.identity import Part, RunSpec
from benchmark.leaderboard.records import Record
from benchmark.metrics.catalogue import METRICS
from benchmark.metrics.record import Value

PROTOCOL = {"draws": 20, "budget": 1.0}


def spec(
    method: str = "map",
    seed: int = 0,
    network: str = "resnet18",
    task: str = "digits",
    given: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    task_config: Mapping[str, Any] | None = None,
    protocol: Mapping[str, Any] | None = None,
    needs: Iterable[str] = (),
    fingerprint: str = "feedc0de12345678",
) -> RunSpec:
    """A specification; `config` are the resolved settings (default: those that are spelled out)."""
    return RunSpec(
        task=Part(task, 1, dict(task_config or {"n_test": 899})),
        fingerprint=fingerprint,
        network=Part(network, 1),
        method=Part(method, 1, dict(config if config is not None else given or {})),
        protocol=dict(protocol or PROTOCOL),
        seed=seed,
        needs=tuple(needs),
        given=dict(given or {}),
    )


def values(**numbers: float | Value) -> dict[str, dict[str, Any]]:
    """Metrics of a result; a number is an `ok` value, `known_law` and OOD metrics are `na` unless given."""
    defaults: dict[str, float | Value] = {
        "accuracy": 0.91,
        "nll": 0.31,
        "nll_ts": 0.30,
        "ece15": 0.031,
        "ece15_floor": 0.0124,
        "ece15_floor95": 0.0166,
        "gap": 0.012,
        "temperature": 1.1,
        "brier": 0.14,
        "bytes": 44_736_912.0,
        "ratio_fp32": 1.0,
        "train_seconds": 95.32,
        "latency_ms": 4.2,
        "ood_auroc[msp]": Value.na("the task has no OOD set"),
        "excess_nll": Value.na("the law of the task is not known"),
        "true_ece15": Value.na("the law of the task is not known"),
    }
    merged = {**defaults, **numbers}
    return {
        name: (each if isinstance(each, Value) else Value.ok(each, 899)).to_json(METRICS[name.partition(".")[0]])
        for name, each in merged.items()
    }


def result(run: RunSpec, metrics: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """The content of a `result.json`."""
    return {
        "schema": 1,
        "id": run.id,
        "spec": run.to_json(),
        "status": "ok",
        "attempts": 1,
        "finished": "2025-01-31T12:00:00+00:00",
        "draws": 1 if run.method.name == "map" else 20,
        "metrics": dict(metrics if metrics is not None else values()),
        "facts": {},
        "posterior": {"bytes": 44_736_912, "sha256": "00", "codec": "generic", "sections": {}, "lossless": True},
        "parameters": 11_173_962,
        "buffers": 9_600,
        "seconds": {"encode": 1.5, "predict": 2.5},
        "latency": {"device": "Test CPU", "dtype": "float32", "threads": 1, "torch": "2.13.0", "mode": "brief"},
        "code": "0123456789abcdef",
        "environment": {
            "code": "0123456789abcdef",
            "processor": "Test CPU",
            "platform": "Linux",
            "python": "3.12.0",
            "packages": {"torch": "2.13.0", "numpy": "2.4.0"},
        },
        **more,
    }


def done(run: RunSpec, status: str = "done", base_seconds: float = 0.0, **numbers: float | Value) -> Record:
    """A finished run with these metrics."""
    return Record(run, status, result=result(run, values(**numbers)), base_seconds=base_seconds)


def failed(run: RunSpec, status: str = "oom", message: str = "CUDA out of memory", phase: str = "fit") -> Record:
    """A run without a result."""
    detail = {"phase": phase, "message": message, "last_lines": ["epoch 3", message]}
    return Record(run, status, message.splitlines()[0] if message else "", detail=detail)


def over_seeds(method: str, nlls: Iterable[float], **more: Any) -> list[Record]:
    """A row: one finished run per NLL, seeds from 0 on; `more` are arguments of `spec` or other metrics."""
    placed = {
        key: more.pop(key) for key in ("network", "task", "given", "config", "task_config", "protocol") if key in more
    }
    return [done(spec(method, seed, **placed), nll=nll, **more) for seed, nll in enumerate(nlls)]


def study() -> list[Record]:
    """One of everything: two tasks, two networks, stale, failed and unfinished runs, infinity, n/a, a known law."""
    wide = {"given": {"components": 64}, "config": {"components": 64, "epochs": 3}}
    records = over_seeds("map", (0.3124, 0.3180, 0.3097), ece15=0.0412, gap=0.031)
    records += over_seeds("mean_field", (0.2871, 0.2903, 0.2866), accuracy=0.9233, ece15=0.0141, gap=0.004)
    records += over_seeds(
        "2dgbnn", (0.2875, 0.2899, 0.2871), **wide, bytes=1_234_567, ratio_fp32=36.2, ece15=0.02, gap=-0.0031
    )
    records[-1] = done(records[-1].spec, "stale", 95.32, nll=0.2880, bytes=1_240_000, ratio_fp32=36.1, ece15=0.021)
    records += over_seeds("pwfn", (0.3501, 0.3555))
    records.append(failed(spec("pwfn", 2)))
    records += [failed(spec("hmc_rebasin", seed), "diverged", "energy is NaN") for seed in (0, 1)]
    records.append(Record(spec("hmc_rebasin", 2), "new"))
    records += over_seeds("map", (0.41, 0.42, 0.40), network="wrn-16-4")
    records += [done(spec("mean_field", seed, "wrn-16-4"), nll=Value.infinite(899, {"n_inf": 2})) for seed in range(3)]
    law = {"excess_nll": 0.021, "true_ece15": 0.0123}
    na = Value.na("the task has no validation split")
    records += over_seeds("map", (0.52, 0.53), task="gaussian_mixture", network="mlp", nll_ts=na, **law)
    records += over_seeds("mean_field", (0.50, 0.51), task="gaussian_mixture", network="mlp", nll_ts=na, **law)
    return records

"""The last step of a run, and all of `rescore`: from stored predictions and measurements to `result.json`.

Pure reading and arithmetic: no torch, no training, the same digits now and years later.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmark.errors import CorruptFile
from benchmark.files import canonical_json, read_json
from benchmark.identity import RunSpec
from benchmark.metrics import cost
from benchmark.metrics.compression import score_size
from benchmark.metrics.encoding_loss import delta_nll_decode
from benchmark.metrics.record import Metric, Value
from benchmark.metrics.scoring import METRICS, Predictions, score
from benchmark.runfolder import RESULT_SCHEMA, RunFolder, read_heartbeat

FIT_KEYS = (
    "facts",
    "fit_seconds",
    "encode_seconds",
    "bytes",
    "sha256",
    "lossless",
    "parameters",
    "buffers",
    "peak_memory",
)
EVALUATION_KEYS = ("predict_seconds", "draws", "codec", "sections", "weights", "macs", "latency")


def publish(
    run: RunFolder,
    spec: RunSpec,
    earlier: dict[str, Any] | None = None,
    before_write: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Score the run's stored predictions and write `result.json`; returns its content. Saved states, which nobody
    needs any more, are removed then.

    earlier: the result that this one replaces (`rescore`): when and by what code the run was made stays as it was.

    Raises:
        PredictionError: the predictions break a rule of their format.
        CorruptFile: a product of an earlier phase is damaged; names it.
    """
    result = score_run(run, spec)
    if earlier is not None:
        result |= {name: earlier[name] for name in ("finished", "attempts", "code", "environment")}
    before_write()
    run.publish(result)
    shutil.rmtree(run.file("checkpoint"), ignore_errors=True)
    return result


def score_run(run: RunFolder, spec: RunSpec) -> dict[str, Any]:
    """The content of `result.json`, from the files of the run's phases."""
    fitted, evaluation = _record(run.file("fit.json"), FIT_KEYS), _record(run.file("evaluation.json"), EVALUATION_KEYS)
    predictions = Predictions.load(run.file("predictions.npz"))
    attempts = run.current_attempts()
    environment = _environment(attempts)
    metrics = score(predictions)
    metrics |= score_size(fitted["bytes"], fitted["parameters"], fitted["buffers"])
    metrics |= evaluation["weights"]
    metrics |= _costs(fitted, evaluation, attempts, environment)
    before = run.file("before.npz")
    loss = delta_nll_decode(predictions, None if fitted["lossless"] else Predictions.load(before))
    metrics["delta_nll_decode"] = loss.to_json(METRICS["delta_nll_decode"])
    return {
        "schema": RESULT_SCHEMA,
        "id": run.id,
        "spec": spec.to_json(),
        "status": "ok",
        "attempts": len(attempts),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "draws": evaluation["draws"],
        "metrics": metrics,
        "facts": fitted["facts"],
        "score": evaluation.get("score"),  # absent in runs that were evaluated before there were any
        "attacks": evaluation.get("attacks", {}),
        "posterior": {
            "bytes": fitted["bytes"],
            "sha256": fitted["sha256"],
            "codec": evaluation["codec"],
            "sections": evaluation["sections"],
            "lossless": fitted["lossless"],
        },
        "needs": fitted.get("needs", {}),
        "parameters": fitted["parameters"],
        "buffers": fitted["buffers"],
        "seconds": {
            "encode": fitted["encode_seconds"],
            "predict": evaluation["predict_seconds"],
            **evaluation.get("more_seconds", {}),  # absent in runs that were evaluated before it was measured
        },
        "device": evaluation.get("device"),
        "latency": evaluation["latency"],
        "labels_sha256": hashlib.sha256(predictions.test.labels.tobytes()).hexdigest()
        if predictions.test.labels is not None
        else None,
        "predictions_sha256": hashlib.sha256(predictions.test.log_probs.tobytes()).hexdigest(),
        "code": environment.get("code"),
        "environment": environment,
    }


def check_fitted(run: RunFolder) -> None:
    """Refuse products of `fit` that are damaged or do not belong together.

    Raises:
        FileNotFoundError: one is missing.
        CorruptFile, CorruptBitstream, PredictionError: one is damaged; names it.
    """
    fitted = _record(run.file("fit.json"), FIT_KEYS)
    path = run.file("posterior.bin")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != fitted["sha256"]:
        raise CorruptFile(f"{path} is damaged: its bytes are not those that fit.json counted.")
    if not fitted["lossless"]:
        Predictions.load(run.file("before.npz"))


def check_evaluated(run: RunFolder) -> None:
    """Refuse products of `evaluate` that are damaged or were made from another posterior than the present one.

    Raises:
        FileNotFoundError: one is missing.
        CorruptFile, PredictionError: one is damaged; names it.
    """
    path = run.file("evaluation.json")
    evaluation = _record(path, (*EVALUATION_KEYS, "posterior_sha256"))
    if evaluation["posterior_sha256"] != _record(run.file("fit.json"), FIT_KEYS)["sha256"]:
        raise CorruptFile(f"{path} is of another posterior than posterior.bin.")
    Predictions.load(run.file("predictions.npz"))


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """The record of a phase with a digest of its content, so that a changed number is noticed when it is read."""
    return {**record, "digest": _digest(record)}


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(record).encode()).hexdigest()


def _record(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    record = read_json(path)
    missing = [key for key in keys if key not in record] if isinstance(record, dict) else list(keys)
    if missing:
        raise CorruptFile(f"{path} is damaged: it lacks {', '.join(missing)}.")
    content = {key: value for key, value in record.items() if key != "digest"}
    if record.get("digest", _digest(content)) != _digest(content):  # records of earlier versions have none
        raise CorruptFile(f"{path} is damaged: its content is not what was written.")
    return content


def fit_seconds(attempt: Path) -> float:
    """Wall seconds that an attempt spent inside `fit`: exact when it ended by itself, up to its last heartbeat when
    it was killed."""
    try:
        return float(read_json(attempt / "outcome.json")["fit_seconds"])
    except (FileNotFoundError, CorruptFile, KeyError, TypeError, ValueError):
        return float(read_heartbeat(attempt).get("fit_seconds", 0.0))


def _costs(
    fitted: dict[str, Any], evaluation: dict[str, Any], attempts: list[Path], environment: dict[str, Any]
) -> dict[str, Any]:
    spent = [seconds for attempt in attempts if (seconds := fit_seconds(attempt)) > 0]
    train = cost.train_seconds(spent or [fitted["fit_seconds"]])
    peaks = [peak for attempt in attempts if (peak := read_heartbeat(attempt).get("peak_memory"))]
    peak = fitted.get("cuda_allocated") or max([fitted["peak_memory"] or 0, *peaks])
    values: dict[str, Value] = {
        "train_seconds": train,
        "device_hours": _device_hours(attempts, train.value or 0.0),
        "peak_memory": cost.peak_memory([peak]),
        "macs": cost.macs(2 * evaluation["macs"], evaluation["draws"]),
        "latency_ms": _latency(evaluation["latency"]),
    }
    return {name: value.to_json(_metric(name)) for name, value in values.items()}


def _device_hours(attempts: list[Path], train: float) -> Value:
    """Of all attempts, each with the devices that it had."""
    devices = {attempt: int(_env(attempt).get("operation", {}).get("devices", 1)) for attempt in attempts}
    if len(set(devices.values())) <= 1:
        return cost.device_hours(train, next(iter(devices.values()), 1))
    return cost.device_hours(sum(fit_seconds(attempt) * count for attempt, count in devices.items()), 1)


def _latency(measured: dict[str, Any] | None) -> Value:
    if measured is None:
        return Value.na("latency was not measured (latency: off)")
    one = measured["batch_1"]
    return Value.ok(one["median_ms"], one["calls"], extra={"iqr": one["q75_ms"] - one["q25_ms"]})


def _metric(name: str) -> Metric:
    return METRICS[name]


def _environment(attempts: list[Path]) -> dict[str, Any]:
    """What the attempts that made the products recorded about themselves: the last one's record, and the code of all
    of them, so that a run that was continued by other code is not taken for the work of either."""
    records = [record for attempt in attempts if (record := _env(attempt))]
    working = [record for attempt in attempts if _worked(attempt) and (record := _env(attempt))] or records
    if not working:
        return {}
    codes = dict.fromkeys(str(record["code"]) for record in working if "code" in record)
    return {**working[-1], **({"code": "+".join(codes)} if codes else {})}


def _worked(attempt: Path) -> bool:
    return any((attempt / f"{phase}.json").is_file() for phase in ("fit", "evaluate")) or fit_seconds(attempt) > 0


def _env(attempt: Path) -> dict[str, Any]:
    try:
        environment = read_json(attempt / "env.json")
    except (FileNotFoundError, CorruptFile):
        return {}
    return environment if isinstance(environment, dict) else {}

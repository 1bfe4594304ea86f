"""How metrics are shown in tables. Machine views (CSV, JSON) hold full precision and never pass through here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

INFINITY = "∞"
NOT_APPLICABLE = "n/a"
AT_BOUND = "(bound)"
STATUSES = ("oom", "timeout", "killed", "diverged", "lost", "skipped")
"""Run statuses that a failed cell shows by name; every other failure is `FAILED`."""

Result = Mapping[str, Any]
Style = tuple[Callable[[float], str], str]
"""How a finite number is written, and what the header says about it."""


def show(metric_name: str, result: Result) -> str:
    """One table cell for the JSON of a `Value`; units stand in the header (`unit`), not in the cell.

    >>> show("accuracy", {"state": "ok", "value": 0.9123})
    '91.23'
    >>> show("mi", {"state": "na", "reason": "one draw (S = 1)"})
    'n/a'
    """
    if result["state"] == "ok":
        mark = f" {AT_BOUND}" if result.get("extra", {}).get("at_bound") else ""
        return show_number(metric_name, result["value"]) + mark
    return {"inf": INFINITY, "na": NOT_APPLICABLE}.get(result["state"]) or failure(result.get("reason", ""))


def show_number(metric_name: str, value: float) -> str:
    """A finite number as the metric's cells show it, for means and differences over seeds too."""
    return _style(metric_name)[0](value)


def unit(metric_name: str) -> str:
    """What the header says about the cells: `%`, `x 1000`, `nat`, `ms`, `h`, or nothing."""
    return _style(metric_name)[1]


def failure(reason: str) -> str:
    """The upper-case status of a failed cell; `reason` may begin with a run status, `oom: ...`."""
    status = reason.partition(":")[0].strip().lower()
    return status.upper() if status in STATUSES else "FAILED"


def show_with_floor(ece: Result, floor: Result) -> str:
    """A calibration error beside its noise floor, in per cent.

    >>> show_with_floor({"state": "ok", "value": 0.0131}, {"state": "ok", "value": 0.0124})
    '1.31 (floor 1.24)'
    """
    shown = show("ece15", ece)
    return f"{shown} (floor {show('ece15_floor', floor)})" if ece["state"] == floor["state"] == "ok" else shown


def indistinguishable(ece: Result, floor95: Result) -> bool:
    """Whether the error cannot be told from calibration: marked so, and left out of best-of-column marking."""
    return ece["state"] == floor95["state"] == "ok" and bool(ece["value"] <= floor95["value"])


def three_digits(value: float) -> str:
    """Three significant digits without an exponent; integers in full from 1000 on.

    >>> [three_digits(x) for x in (0.5204, 9.996, 42.0, 1234.5)]
    ['0.520', '10.0', '42.0', '1234']
    """
    if value == 0:
        return "0.00"
    rounded = float(f"{value:.2e}")
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"


def binary_size(size: float) -> str:
    """Bytes in binary units with three digits; exact below 1000.

    >>> [binary_size(x) for x in (850, 1536, 11_174_000)]
    ['850 B', '1.50 KiB', '10.7 MiB']
    """
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    step = 0
    while size >= 999.5 and step < len(units) - 1:  # 999.5: three digits never show four
        size, step = size / 1024, step + 1
    return f"{size:.0f} B" if step == 0 and size == int(size) else f"{three_digits(size)} {units[step]}"


def duration(seconds: float) -> str:
    """A wall time in its two leading units.

    >>> [duration(x) for x in (0.4217, 95.32, 910, 7500, 200_000)]
    ['0.422 s', '1m 35s', '15m 10s', '2h 05m', '2d 08h']
    """
    whole = round(seconds)
    if whole < 60:
        return f"{three_digits(seconds)} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60}h {minutes % 60:02d}m"
    hours = round(seconds / 3600)
    return f"{hours // 24}d {hours % 24:02d}h"


def decimal_size(count: float) -> str:
    """A count with three digits and a decimal prefix.

    >>> [decimal_size(x) for x in (850, 568_320, 1.82e9)]
    ['850', '568 k', '1.82 G']
    """
    prefixes = ("", "k", "M", "G", "T", "P")
    step = 0
    while count >= 999.5 and step < len(prefixes) - 1:
        count, step = count / 1000, step + 1
    return f"{count:.0f}" if step == 0 and count == int(count) else f"{three_digits(count)} {prefixes[step]}".rstrip()


def _fixed(decimals: int, factor: float = 1.0, sign: str = "") -> Callable[[float], str]:
    return lambda value: f"{_without_negative_zero(factor * value, decimals):{sign}.{decimals}f}"


def _without_negative_zero(value: float, decimals: int) -> float:
    return round(value, decimals) + 0.0


_PER_CENT = (_fixed(2, 100), "%")
_NATS = (_fixed(4), "nat")
_STYLES: dict[str, Style] = {
    "accuracy": _PER_CENT,
    "nll": _NATS,
    "nll_ts": _NATS,
    "excess_nll": _NATS,
    "delta_nll_decode": (_fixed(4, sign="+"), "nat"),
    "entropy": _NATS,
    "mi": _NATS,
    "brier": (_fixed(4), ""),
    "tv": (_fixed(4), ""),
    "ece15": _PER_CENT,
    "ece15m": _PER_CENT,
    "ece15_ts": _PER_CENT,
    "ece15_floor": _PER_CENT,
    "ece15_floor95": _PER_CENT,
    "ece15m_floor": _PER_CENT,
    "ece15m_floor95": _PER_CENT,
    "ece15_p": (_fixed(3), ""),
    "ece15m_p": (_fixed(3), ""),
    "true_ece15": _PER_CENT,
    "gap": (_fixed(2, 100, "+"), "%"),
    "temperature": (_fixed(3), ""),
    "aurc": (_fixed(2, 1000), "x 1000"),
    "eaurc": (_fixed(2, 1000), "x 1000"),
    "attacked_accuracy": _PER_CENT,
    "ood_auroc": (_fixed(1, 100), "%"),
    "ood_fpr95": _PER_CENT,
    "ood_fpr95_id": _PER_CENT,
    "shift_accuracy": _PER_CENT,
    "shift_nll": _NATS,
    "shift_ece15": _PER_CENT,
    "agreement": _PER_CENT,
    "bytes": (binary_size, ""),
    "bits_per_weight": (three_digits, "bit"),
    "ratio_fp32": (lambda value: f"x{three_digits(value)}", ""),
    "ratio_fp16": (lambda value: f"x{three_digits(value)}", ""),
    "ratio_mf32": (lambda value: f"x{three_digits(value)}", ""),
    "unique_values": (lambda value: f"{value:.0f}", ""),
    "entropy_bytes": (lambda value: f"~{binary_size(value)}", ""),
    "sparsity": _PER_CENT,
    "train_seconds": (duration, ""),
    "device_hours": (three_digits, "h"),
    "peak_memory": (binary_size, ""),
    "latency_ms": (three_digits, "ms"),
    "macs": (decimal_size, ""),
}


def style_of(metric_name: str) -> Style | None:
    """The style by the name without score and suffix (`ood_auroc[msp].svhn` -> `ood_auroc`); None if there is none."""
    return _STYLES.get(metric_name.partition(".")[0].partition("[")[0])


def _style(metric_name: str) -> Style:
    """The metric's style; four digits for a metric that has none."""
    return style_of(metric_name) or (lambda value: f"{value:.4g}", "")

"""Which columns a table has, and what they are called."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from benchmark.errors import ConfigError, unknown
from benchmark.leaderboard.cell import WITH_BASE
from benchmark.leaderboard.records import Record
from benchmark.metrics.catalogue import COMPARISON_METRICS, METRICS, PER_SET, metric_of
from benchmark.metrics.record import Direction
from benchmark.metrics.views import unit

MAIN = (
    "accuracy",
    "nll",
    "nll_ts",
    "ece15",
    "gap",
    "bytes",
    "ratio_fp32",
    "train_seconds",
    WITH_BASE,
)
"""The obligatory columns of a main table; S and coverage stand in every table besides."""
KNOWN_LAW = ("excess_nll", "true_ece15")
"""Added for a task whose exact p(y | x) is known."""
COMPARED = tuple(metric.name for metric in COMPARISON_METRICS)
"""Added where runs are compared with a reference predictive."""
SHIFTED = ("shift_accuracy.mean", "shift_nll.mean", "shift_ece15.mean")
"""Added where the protocol asks for corrupted test data."""
DETECTED = ("ood_auroc[msp]", "ood_fpr95[msp]")
"""Added for every out-of-distribution set of the task."""
FLOORS = {"ece15": "ece15_floor", "ece15m": "ece15m_floor"}
"""The value that a perfectly calibrated predictor would get, printed beside a calibration error."""
BY_NAME = "method"
"""The sort order by the name of the row."""

_HEADERS = {
    "accuracy": "acc",
    "nll": "NLL",
    "nll_ts": "NLL ts",
    "ece15": "ECE15 (floor)",
    "ece15m": "ECE15m (floor)",
    "brier": "Brier",
    "bytes": "size",
    "ratio_fp32": "fp32/size",
    "ratio_fp16": "fp16/size",
    "ratio_mf32": "mf32/size",
    "excess_nll": "excess NLL",
    "true_ece15": "true ECE15",
    "shift_accuracy": "acc shift",
    "shift_nll": "NLL shift",
    "shift_ece15": "ECE15 shift",
    "shift_accuracy.mean": "acc shifted",
    "shift_nll.mean": "NLL shifted",
    "shift_ece15.mean": "ECE15 shifted",
    "ood_auroc[msp]": "AUROC",
    "ood_fpr95[msp]": "FPR95",
    "agreement": "agree",
    "tv": "TV",
    "train_seconds": "train",
    WITH_BASE: "+ base",
    "latency_ms": "latency",
    "macs": "MACs",
    "peak_memory": "memory",
}


@dataclass(frozen=True)
class Column:
    """A metric as a column: its name in results, its header, the unit of its cells and which way is better."""

    name: str
    header: str
    unit: str
    direction: Direction

    @property
    def title(self) -> str:
        """Header and unit: `acc %`."""
        return f"{self.header} {self.unit}".rstrip()


def column(name: str) -> Column:
    """The column of a metric, which may carry a suffix (`ood_auroc[msp].svhn`)."""
    metric, _, suffix = name.partition(".")
    header = f"{_HEADERS[metric]} {suffix}" if suffix and metric in _HEADERS else name
    return Column(name, _HEADERS.get(name, header), unit(name), metric_of(name).direction)


def choose(
    columns: Sequence[str] | None, records: Iterable[Record], elsewhere: Collection[str] = ()
) -> tuple[Column, ...]:
    """The columns of one table with these records.

    None gives the main table. Names replace its columns; names that begin with `+` are added to them. A metric that
    has one result per OOD or attacked set stands for all of them. elsewhere: metrics of the other tables, which may be
    asked for although this table has no such set. Before there is any result, every name of a set passes.

    Raises:
        ConfigError: a name that is no metric, or no columns at all.
    """
    runs = list(records)
    compared = any(record.compared_with is not None for record in runs)
    present = metrics_in(runs)
    main = (
        *MAIN,
        *(KNOWN_LAW if _law_is_known(runs) else ()),
        *(COMPARED if compared else ()),
        *(name for name in SHIFTED if name in present),
        *_detected(present),
    )
    if columns is None:
        return tuple(column(name) for name in main)
    own = [name for name in columns if not name.startswith("+")]
    added = [name[1:] for name in columns if name.startswith("+")]
    wanted = [*(own or main), *added]
    names = dict.fromkeys(name for text in wanted for name in _expanded(text, present, elsewhere))
    if not columns:
        raise ConfigError("no columns were asked for; leave the option out for the main table.")
    return tuple(column(name) for name in names)


def check_sort(sort: str, records: Iterable[Record]) -> None:
    """Refuse a sort order that is neither a metric nor `method`, or that has one value per set.

    Raises:
        ConfigError: holds the nearest match, or the sets.
    """
    present = metrics_in(records)
    legal = {BY_NAME, WITH_BASE, *METRICS, *present}
    if sort not in legal and (present or not _is_of_a_set(sort)):
        raise ConfigError(unknown("sort order", sort, legal))
    sets = _of_sets(sort, present)
    if sets:
        raise ConfigError(f"sort order '{sort}' has one value per set. Name one of: {', '.join(sets)}.")


def metrics_in(records: Iterable[Record]) -> list[str]:
    """The metrics of these results in the catalogue's order, suffixes by name."""
    order = {name: position for position, name in enumerate(METRICS)}
    names = {name for record in records for name in record.metrics}
    return sorted(names, key=lambda name: (order.get(name.partition(".")[0], len(order)), name))


def _expanded(name: str, present: Sequence[str], elsewhere: Collection[str]) -> list[str]:
    results = {*present, *elsewhere}
    known = {WITH_BASE, *METRICS, *results}
    if name not in known and (results or not _is_of_a_set(name)):
        raise ConfigError(unknown("column", name, known))
    return _of_sets(name, present) or [name]


def _of_sets(metric: str, present: Iterable[str]) -> list[str]:
    """The results of a metric that has one per set: of `ood_auroc[msp]`, `ood_auroc[msp].svhn` and the like."""
    return [name for name in present if name.startswith(f"{metric}.")]


def _detected(present: Collection[str]) -> list[str]:
    """The columns of detection, for sets that are not attacked examples."""
    named = [name for metric in DETECTED for name in _of_sets(metric, sorted(present))]
    return [name for name in named if f"attacked_accuracy.{name.partition('.')[2]}" not in present]


def _is_of_a_set(name: str) -> bool:
    """Whether a name is that of a metric on some set, whatever the set is called."""
    metric, _, suffix = name.partition(".")
    return bool(suffix) and metric in METRICS and any(need in PER_SET for need in METRICS[metric].needs)


def _law_is_known(records: Iterable[Record]) -> bool:
    return any(record.metrics.get("excess_nll", {}).get("state", "na") != "na" for record in records)

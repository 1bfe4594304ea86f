"""Statistics over seeds and tasks: intervals, paired comparisons, multiple testing, ranks, bootstrap.

The unit of replication is the seed. Methods share the base network of a (task, network, seed), so that two of them are
compared on their paired differences. Missing values are never imputed here: what is compared is what both have.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Direction = Literal["up", "down"]
Mark = Literal["best", "second"]

LEVEL = 0.95
MIN_SEEDS = 3
"""Below it there is no +-, no test and no bold."""
MIN_TASKS = 5
"""Below it there is no critical difference."""


@dataclass(frozen=True)
class Interval:
    """A mean over n seeds with its bounds. `kind` says what they are: `value` (n = 1: none), `range` (n = 2: smallest
    and largest value), `t` (n >= 3: 95% t-interval)."""

    kind: Literal["value", "range", "t"]
    n: int
    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def half_width(self) -> float | None:
        """What stands after +-; None below three seeds."""
        return (
            (self.high - self.low) / 2 if self.kind == "t" and self.low is not None and self.high is not None else None
        )


def interval(values: Iterable[float]) -> Interval:
    """The mean over seeds with t_{.975, n-1} s / sqrt(n) for n >= 3 (s with ddof 1), the range for n = 2.

    Raises:
        ValueError: no value, or one that is not finite.

    >>> round(interval([0.91, 0.93, 0.92]).half_width, 4)
    0.0248
    """
    data = _finite(values)
    n, mean = len(data), _mean(data)
    if n == 1:
        return Interval("value", 1, mean)
    if n < MIN_SEEDS:
        return Interval("range", n, mean, min(data), max(data))
    half = _t_quantile(n - 1) * _standard_error(data)
    return Interval("t", n, mean, mean - half, mean + half)


@dataclass(frozen=True)
class Paired:
    """The mean difference a - b over common seeds. Interval, t and p are None below three common seeds.

    Equal differences on every seed give t = +-inf and p = 0, or t = 0 and p = 1 when they are all zero.
    """

    seeds: tuple[int, ...]
    difference: float | None
    low: float | None = None
    high: float | None = None
    t: float | None = None
    p: float | None = None

    @property
    def n(self) -> int:
        """Common seeds."""
        return len(self.seeds)


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Paired:
    """Differences seed -> a - b over the seeds that both have: 95% t-interval and two-sided paired t-test.

    Raises:
        ValueError: a value of a common seed is not finite.
    """
    seeds = tuple(sorted(a.keys() & b.keys()))
    if not seeds:
        return Paired((), None)
    data = _finite(a[seed] - b[seed] for seed in seeds)
    mean = _mean(data)
    if len(seeds) < MIN_SEEDS:
        return Paired(seeds, mean)
    error = _standard_error(data)
    rounding = 1e-14 * max(abs(value) for seed in seeds for value in (a[seed], b[seed]))
    if error <= rounding:  # differences that are equal up to rounding have no spread to divide by
        if abs(mean) <= rounding:
            return Paired(seeds, mean, mean, mean, 0.0, 1.0)
        return Paired(seeds, mean, mean, mean, math.copysign(math.inf, mean), 0.0)
    from scipy.special import stdtr

    half, t = _t_quantile(len(seeds) - 1) * error, mean / error
    return Paired(seeds, mean, mean - half, mean + half, t, float(2 * stdtr(len(seeds) - 1, -abs(t))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment in the order given: running max of (m - j + 1) p_(j), capped at 1 (Holm 1979).

    Raises:
        ValueError: a p-value outside [0, 1].

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    m = len(p_values)
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values {list(p_values)}: expected numbers in [0, 1]")
    adjusted, largest = [0.0] * m, 0.0
    for j, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (m - j) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def mark_best(values: Mapping[str, Mapping[int, float]], direction: Direction) -> dict[str, set[Mark]]:
    """Which methods of one column are marked: method -> seed -> value in, method -> marks out.

    `best` (bold): the best mean, and every method whose paired 95% interval against it contains 0. `second`
    (underlined): the second-best mean. When the best has fewer than three seeds there is no bold and the best is
    underlined instead; a method with fewer than three seeds in common with the best is never bold. Callers pass only
    methods that are candidates: complete, in state ok, no reference rows. Equal means go by name.
    """
    sign = -1.0 if direction == "up" else 1.0
    order = sorted(values, key=lambda method: (sign * _mean(_finite(values[method].values())), method))
    marks: dict[str, set[Mark]] = {method: set() for method in values}
    if not order:
        return marks
    best = order[0]
    if len(values[best]) < MIN_SEEDS:
        marks[best].add("second")
        return marks
    marks[best].add("best")
    for method in order[1:]:
        test = paired(values[method], values[best])
        if test.low is not None and test.high is not None and test.low <= 0 <= test.high:
            marks[method].add("best")
    if len(order) > 1:
        marks[order[1]].add("second")
    return marks


@dataclass(frozen=True)
class Ranking:
    """Mean ranks over complete tasks, 1 = best. `ranks`: one row per task, one column per method.

    `unranked`: methods that lack a task, with the number of tasks that they have.
    """

    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    ranks: Floats = field(repr=False)
    unranked: Mapping[str, int]

    @property
    def mean_ranks(self) -> dict[str, float]:
        """Method -> mean rank; empty when no method is complete."""
        return dict(zip(self.methods, self.ranks.mean(axis=0).tolist(), strict=True)) if self.methods else {}


def rank(scores: Mapping[str, Mapping[str, float]], direction: Direction) -> Ranking:
    """Ranks of the methods that have a value on every task; task -> method -> value, ties averaged.

    Infinity is legal and ranks after every finite value. Methods and tasks come out in the order of their names, so
    that the result does not depend on the order of rows.

    Raises:
        ValueError: a value is NaN.
    """
    tasks = tuple(sorted(scores))
    every = sorted({method for task in tasks for method in scores[task]})
    methods = tuple(method for method in every if all(method in scores[task] for task in tasks))
    table = np.array([[scores[task][method] for method in methods] for task in tasks], dtype=np.float64)
    unranked = {m: sum(m in scores[task] for task in tasks) for m in every if m not in methods}
    ranks = np.array([_ranks(row, direction) for row in table]).reshape(len(tasks), len(methods))
    return Ranking(methods, tasks, ranks, unranked)


@dataclass(frozen=True)
class Friedman:
    """Friedman's test with tie correction, its F form, and the critical difference of mean ranks.

    `critical_difference` is None when there are fewer than five tasks or p >= .05. f is infinite, and p zero, when all
    tasks order the methods alike: print p < 1e-6.
    """

    n_tasks: int
    chi2: float
    f: float
    p: float
    critical_difference: float | None


def friedman(ranks: Floats) -> Friedman:
    """Friedman's test on ranks (N tasks, k methods), F after Iman and Davenport 1980, post hoc Nemenyi (Demsar 2006).

    chi2 = 12 / (N k (k + 1)) sum_j R_j^2 - 3 N (k + 1), R_j the rank sums, over 1 - sum (t^3 - t) / (N (k^3 - k)) for
    ties of t methods; F = (N - 1) chi2 / (N (k - 1) - chi2) on k - 1 and (k - 1)(N - 1) degrees of freedom.

    Raises:
        ValueError: fewer than two tasks or two methods.
    """
    n, k = ranks.shape
    if n < 2 or k < 2:
        raise ValueError(f"{n} tasks and {k} methods: ranks are compared from two of each on")
    ties = sum(float((counts**3 - counts).sum()) for counts in (np.unique(row, return_counts=True)[1] for row in ranks))
    correction = 1 - ties / (n * (k**3 - k))
    if correction == 0:  # every method ties with every other on every task
        return Friedman(n, 0.0, 0.0, 1.0, None)
    sums = ranks.sum(axis=0)
    chi2 = float((12 / (n * k * (k + 1)) * (sums**2).sum() - 3 * n * (k + 1)) / correction)
    room = n * (k - 1) - chi2
    if room <= 1e-9 * n * k:
        f, p = math.inf, 0.0
    else:
        from scipy.special import fdtrc

        f = (n - 1) * chi2 / room
        p = float(fdtrc(k - 1, (k - 1) * (n - 1), f))
    return Friedman(n, chi2, f, p, nemenyi(n, k) if n >= MIN_TASKS and p < 1 - LEVEL else None)


def nemenyi(n_tasks: int, n_methods: int) -> float:
    """Critical difference of two mean ranks, q sqrt(k (k + 1) / (6 N)), q = studentised range(.95, k, inf) / sqrt 2."""
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(LEVEL, n_methods, math.inf)) / math.sqrt(2)
    return q * math.sqrt(n_methods * (n_methods + 1) / (6 * n_tasks))


def bootstrap_interval(
    statistic: Callable[[NDArray[np.int64]], float], n: int, replicates: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95% percentile bootstrap over n samples: `statistic` maps drawn indices (n,) to a number.

    Its own generator, PCG64(seed). Not for calibration errors: their bootstrap is biased upwards, they have a noise
    floor. Test-set error and seed error are shown side by side and never added.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    draws = [statistic(generator.integers(0, n, size=n)) for _ in range(replicates)]
    low, high = np.quantile(np.array(draws, dtype=np.float64), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def geometric_mean(values: Iterable[float]) -> float:
    """The mean for ratios over tasks, exp(mean log).

    Raises:
        ValueError: no value, or one that is not positive and finite.
    """
    data = _finite(values)
    if min(data) <= 0:
        raise ValueError(f"{min(data)} has no logarithm; a geometric mean needs positive values")
    return float(np.exp(np.log(data).mean()))


def _ranks(row: Floats, direction: Direction) -> Floats:
    """Mid-ranks, 1 = best."""
    if np.isnan(row).any():
        raise ValueError("a value is NaN; a method without a number on a task is left out of that task")
    keys = np.where(np.isinf(row), np.inf, -row if direction == "up" else row)
    _, block, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    middle = sizes.cumsum() - (sizes - 1) / 2
    return np.asarray(middle[block], dtype=np.float64)


def _finite(values: Iterable[float]) -> list[float]:
    """Plain floats: for the few values of a cell, NumPy's cost per call is most of a large table's time."""
    data = [float(value) for value in values]
    if not data or not all(map(math.isfinite, data)):
        raise ValueError(f"values {data}: expected at least one, all finite")
    return data


def _mean(data: Sequence[float]) -> float:
    return math.fsum(data) / len(data)


def _standard_error(data: Sequence[float]) -> float:
    mean = _mean(data)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in data) / (len(data) - 1) / len(data))


@functools.cache
def _t_quantile(degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + LEVEL) / 2))

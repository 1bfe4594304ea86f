"""Stored predictions: the records that metrics read, and their arrays in `predictions.npz`."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.errors import CorruptFile, PredictionError
from benchmark.metrics.inputs import check_expected_entropy, check_labels, check_log_probs, check_score
from benchmark.metrics.record import Bools, Floats, Integers

T = TypeVar("T")

# numpy reports damage in as many ways as zip, zlib and its own header have; TypeError is a lone .npy array.
_DAMAGE = (OSError, ValueError, LookupError, EOFError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, eq=False)
class SplitPredictions:
    """The mean predictive on one split, checked and held in float64, with what several metrics derive from it.

    log_probs: (n, K) natural log of the mean predictive probability, -inf allowed. labels: (n,) classes, None for OOD
    inputs. expected_entropy: (n,) mean over draws of each draw's entropy in nats, None when S = 1. score: (n,) the
    posterior's own uncertainty, larger = more suspicious, NaN allowed; None when it has no score. `name` is the prefix
    in error messages. Derived arrays are computed at first use and live as long as the record.

    Raises:
        PredictionError: an array breaks a rule; names the array and its first bad row.

    >>> split = SplitPredictions(np.log([[0.7, 0.3], [0.4, 0.6]]), np.array([0, 0]))
    >>> split.correct.tolist()
    [True, False]
    """

    log_probs: Floats
    labels: Integers | None = None
    expected_entropy: Floats | None = None
    score: Floats | None = None
    name: str = ""
    _memory: dict[Callable[..., Any], Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        prefix = f"{self.name}." if self.name else ""
        log_probs = check_log_probs(self.log_probs, f"{prefix}log_probs")
        object.__setattr__(self, "log_probs", log_probs)
        if self.labels is not None:
            object.__setattr__(self, "labels", check_labels(self.labels, log_probs.shape, f"{prefix}labels"))
        if self.expected_entropy is not None:
            expected = check_expected_entropy(self.expected_entropy, len(log_probs), f"{prefix}expected_entropy")
            object.__setattr__(self, "expected_entropy", expected)
        if self.score is not None:
            object.__setattr__(self, "score", check_score(self.score, len(log_probs), f"{prefix}score"))

    def first(self, n: int) -> SplitPredictions:
        """The first min(n, len) examples; itself when that is all of them."""
        if n >= len(self):
            return self
        labels = None if self.labels is None else self.labels[:n]
        expected = None if self.expected_entropy is None else self.expected_entropy[:n]
        score = None if self.score is None else self.score[:n]
        return SplitPredictions(self.log_probs[:n], labels, expected, score, self.name)

    def __len__(self) -> int:
        return len(self.log_probs)

    @property
    def n_classes(self) -> int:
        """K."""
        return int(self.log_probs.shape[1])

    @cached_property
    def probs(self) -> Floats:
        """(n, K) mean predictive probabilities."""
        return np.exp(self.log_probs)

    @cached_property
    def predicted(self) -> Integers:
        """(n,) arg-max class; ties go to the lowest index."""
        return np.asarray(self.log_probs.argmax(axis=1), dtype=np.int64)

    @cached_property
    def top_log_prob(self) -> Floats:
        """(n,) log of the confidence; keeps apart what the probability merges near 1."""
        return self.at(self.predicted)

    @cached_property
    def confidence(self) -> Floats:
        """(n,) probability of the predicted class."""
        return np.exp(self.top_log_prob)

    @cached_property
    def correct(self) -> Bools:
        """(n,) whether the predicted class is the label."""
        return np.equal(self.predicted, self._known_labels)

    @cached_property
    def label_log_prob(self) -> Floats:
        """(n,) log-probability of the label."""
        return self.at(self._known_labels)

    @cached_property
    def entropies(self) -> Floats:
        """(n,) entropy of each row in nats, 0 log 0 = 0."""
        return np.asarray(0.0 - np.einsum("ij,ij->i", self.probs, finite_or_zero(self.log_probs)))

    def at(self, classes: Integers) -> Floats:
        """(n,) log-probability of one class per row."""
        return self.log_probs[np.arange(len(self)), classes]

    def once(self, function: Callable[[SplitPredictions], T]) -> T:
        """`function(self)`, computed at the first call and remembered: work that several metrics share."""
        if function not in self._memory:
            self._memory[function] = function(self)
        return cast(T, self._memory[function])

    @property
    def _known_labels(self) -> Integers:
        if self.labels is None:
            raise PredictionError(f"the predictions of '{self.name or 'this split'}' come without labels.")
        return self.labels


@dataclass(frozen=True, eq=False)
class Predictions:
    """Everything that is stored about the predictions of one posterior on one task.

    draws: S, the number of forward passes; 1 for a deterministic posterior. ood: sets by name that are to be told from
    the test set: inputs that are not of the task, without labels; and attacked test examples, the first ones of the
    test set in order and with their labels. shifted: severity -> corruption -> predictions of corrupted test examples,
    with their labels. true_log_probs: (n, K) exact log p(y | x) of the test inputs, for tasks
    whose law is known. Stored log-probabilities are float32: what is to be scored and saved goes through
    `Predictions.from_arrays(p.arrays())` first, so that `rescore` gives the same digits.

    Raises:
        PredictionError: an array breaks a rule, test or validation labels are missing, attacked examples are not the
            first test examples, the classes of the splits differ, or S contradicts `deterministic`.
    """

    test: SplitPredictions
    val: SplitPredictions | None = None
    ood: Mapping[str, SplitPredictions] = field(default_factory=dict)
    shifted: Mapping[int, Mapping[str, SplitPredictions]] = field(default_factory=dict)
    true_log_probs: Floats | None = None
    draws: int = 1
    deterministic: bool = False

    def __post_init__(self) -> None:
        for name, split in (("test", self.test), ("val", self.val)):
            if split is not None and split.labels is None:
                raise PredictionError(f"'{name}.labels' is missing.")
        for name, split in (("val", self.val), *self._sets()):
            if split is not None and split.n_classes != self.test.n_classes:
                raise PredictionError(
                    f"'{name}.log_probs' has {split.n_classes} classes, 'test.log_probs' has {self.test.n_classes}."
                )
        for name, split in self.attacked.items():
            expected = self.test.first(len(split)).labels
            if split.labels is None or not np.array_equal(split.labels, expected if expected is not None else []):
                raise PredictionError(f"'ood.{name}.labels' are not those of the first {len(split)} test examples.")
        if self.draws < 1 or (self.deterministic and self.draws != 1):
            raise PredictionError(
                f"draws is {self.draws}, expected at least 1, and 1 exactly for a deterministic posterior "
                f"(deterministic is {self.deterministic})."
            )
        if self.true_log_probs is not None:
            true = check_log_probs(self.true_log_probs, "test.true_log_probs")
            if true.shape != self.test.log_probs.shape:
                raise PredictionError(f"'test.true_log_probs' is {true.shape}, expected {self.test.log_probs.shape}.")
            object.__setattr__(self, "true_log_probs", true)

    @property
    def attacked(self) -> dict[str, SplitPredictions]:
        """The sets of attacked test examples: those that have labels."""
        return {name: split for name, split in self.ood.items() if split.labels is not None}

    def inliers(self, name: str) -> SplitPredictions:
        """What the set `name` is to be told from: for attacked examples the same test examples before the attack, so
        that the examples themselves make no difference; for other sets the whole test set."""
        return self._firsts[len(self.ood[name])] if name in self.attacked else self.test

    @cached_property
    def _firsts(self) -> dict[int, SplitPredictions]:
        """Size -> that many test examples, once for all attacks: derived arrays are shared."""
        return {n: self.test.first(n) for n in {len(split) for split in self.attacked.values()}}

    def _sets(self) -> Iterator[tuple[str, SplitPredictions]]:
        """The predictions beside test and validation data, by the prefix of their arrays."""
        yield from ((f"ood.{name}", split) for name, split in self.ood.items())
        for severity, sets in self.shifted.items():
            yield from ((f"shift.{corruption}.{severity}", split) for corruption, split in sets.items())

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of `predictions.npz`: `<split>.log_probs`, `.labels`, `.expected_entropy`, `.score` for the splits
        `test`, `val` and `ood.<name>`; `shift.<corruption>.<severity>.log_probs`, with `shift.labels` for all of them;
        `test.true_log_probs`; `meta.draws` and `meta.deterministic` (0-d)."""
        stored: dict[str, NDArray[Any]] = {}
        splits = {"test": self.test, "val": self.val, **{f"ood.{name}": split for name, split in self.ood.items()}}
        for name, split in splits.items():
            if split is None:
                continue
            stored[f"{name}.log_probs"] = split.log_probs.astype(np.float32)
            if split.labels is not None:
                stored[f"{name}.labels"] = split.labels
            if split.expected_entropy is not None:
                stored[f"{name}.expected_entropy"] = split.expected_entropy.astype(np.float32)
            if split.score is not None:
                stored[f"{name}.score"] = split.score.astype(np.float32)
        for severity, sets in self.shifted.items():
            for corruption, split in sets.items():
                stored[f"shift.{corruption}.{severity}.log_probs"] = split.log_probs.astype(np.float32)
                stored["shift.labels"] = split._known_labels
        if self.true_log_probs is not None:
            stored["test.true_log_probs"] = self.true_log_probs.astype(np.float32)
        stored["meta.draws"] = np.array(self.draws, dtype=np.int64)
        stored["meta.deterministic"] = np.array(self.deterministic)
        return stored

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, ArrayLike]) -> Self:
        """The inverse of `arrays`; keys that no metric reads are ignored.

        Raises:
            KeyError: `test.log_probs`, `meta.draws` or `meta.deterministic` is missing.
            PredictionError: the content breaks a rule.
        """
        prefix, suffix = "ood.", ".log_probs"
        sets = [key[len(prefix) : -len(suffix)] for key in arrays if key.startswith(prefix) and key.endswith(suffix)]
        true = arrays.get("test.true_log_probs")
        return cls(
            test=_split(arrays, "test"),
            val=_split(arrays, "val") if "val.log_probs" in arrays else None,
            ood={name: _split(arrays, f"ood.{name}") for name in sorted(sets)},
            shifted=_shifted(arrays),
            true_log_probs=None if true is None else np.asarray(true),
            draws=int(np.asarray(arrays["meta.draws"])),
            deterministic=bool(np.asarray(arrays["meta.deterministic"])),
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read `predictions.npz`.

        Raises:
            FileNotFoundError: there is no such file.
            CorruptFile: it cannot be read back, or an array is missing; names the path.
            PredictionError: it can be read and the content breaks a rule; names path, array and row.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in archive.files}
        except FileNotFoundError:
            raise
        except _DAMAGE as error:
            raise CorruptFile(f"{path} cannot be read as predictions ({type(error).__name__}: {error}).") from error
        try:
            return cls.from_arrays(arrays)
        except PredictionError as error:
            raise type(error)(f"{path}: {error}") from error
        except (KeyError, TypeError) as error:
            raise CorruptFile(f"{path} lacks a readable array {error}.") from error


def _shifted(arrays: Mapping[str, ArrayLike]) -> dict[int, dict[str, SplitPredictions]]:
    """Severity -> corruption -> predictions, both in order."""
    prefix, suffix = "shift.", ".log_probs"
    names = [key[len(prefix) : -len(suffix)] for key in arrays if key.startswith(prefix) and key.endswith(suffix)]
    found: dict[int, dict[str, SplitPredictions]] = {}
    for name in sorted(names):
        corruption, _, severity = name.rpartition(".")
        log_probs, labels = np.asarray(arrays[f"{prefix}{name}{suffix}"]), np.asarray(arrays["shift.labels"])
        found.setdefault(int(severity), {})[corruption] = SplitPredictions(log_probs, labels, name=f"{prefix}{name}")
    return dict(sorted(found.items()))


def finite_or_zero(log_probs: Floats) -> Floats:
    """`log_probs` with -inf replaced by 0, so that a zero probability times it is 0 instead of NaN."""
    infinite = np.isneginf(log_probs)
    return np.where(infinite, 0.0, log_probs) if infinite.any() else log_probs


def _split(arrays: Mapping[str, ArrayLike], name: str) -> SplitPredictions:
    def stored(key: str) -> Any:
        array = arrays.get(f"{name}.{key}")
        return None if array is None else np.asarray(array)

    log_probs = np.asarray(arrays[f"{name}.log_probs"])
    return SplitPredictions(log_probs, stored("labels"), stored("expected_entropy"), stored("score"), name)

"""What a fit remembers of its rounds, for the history, the facts and the figure. Part of checkpoints."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmark import Fact
from methods.fixed_weights.picks import Pick
from methods.map.evaluation import Evaluation


@dataclass(frozen=True)
class Round:
    """One round. p: share to be fixed after it. left: weights to be fixed in it. phases, seconds: of the clustering.
    fixed: weights fixed after it. entropy_bits: of the labels of the fixed weights. median_sigma: of the weights that
    are free after it, None without any. negative_sigma: share of the weights that were free before it whose sigma was
    negative. Both None of points. before, after: validation of the means around the clustering, None without validation
    data."""

    p: float
    left: int
    picks: tuple[Pick, ...]
    phases: int
    seconds: float
    fixed: int
    entropy_bits: float
    median_sigma: float | None
    negative_sigma: float | None
    before: Evaluation | None
    after: Evaluation | None

    @classmethod
    def of_saved(cls, saved: Mapping[str, Any]) -> Round:
        """The inverse of `dataclasses.asdict` and a checkpoint."""
        evaluations = {name: saved[name] and Evaluation(**saved[name]) for name in ("before", "after")}
        return cls(**{**saved, **evaluations, "picks": tuple(Pick(**pick) for pick in saved["picks"])})

    def values(self) -> dict[str, float | int | str]:
        """For the history; picks as `code:count:omega:delta`."""
        found: dict[str, float | int | str] = {
            "p": self.p,
            "left": self.left,
            "picks": " ".join(f"{pick.code}:{pick.count}:{pick.omega}:{pick.delta:g}" for pick in self.picks),
            "phases": self.phases,
            "seconds_cluster": self.seconds,
            "fixed": self.fixed,
            "entropy_bits": self.entropy_bits,
        }
        of_sigma = {"negative_sigma": self.negative_sigma, "median_sigma": self.median_sigma}
        found |= {name: value for name, value in of_sigma.items() if value is not None}
        return found | evaluation_columns("before", self.before) | evaluation_columns("after", self.after)


def evaluation_columns(suffix: str, found: Evaluation | None) -> dict[str, float]:
    """val_acc_SUFFIX, val_nll_SUFFIX; nothing without validation data."""
    return {} if found is None else {f"val_acc_{suffix}": found.accuracy, f"val_nll_{suffix}": found.nll}


class Record:
    """Grows with a fit.

    facts: known before the first step. rounds: those that are over. by_round, by_omega: weights of every tensor fixed
    in each round, and with each number of powers of two; under `recluster_all` every time counts.
    """

    def __init__(self) -> None:
        self.facts: dict[str, Fact] = {}
        self.rounds: list[Round] = []
        self.by_round: list[list[int]] = []
        self.by_omega: dict[int, list[int]] = {}
        self.training = Stopwatch()

    def add(self, one: Round, counts: Mapping[int, list[int]], tensors: int) -> None:
        """counts: weights of every tensor fixed in this round, by omega."""
        self.rounds.append(one)
        self.by_round.append([sum(column) for column in zip(*counts.values(), strict=True)] or [0] * tensors)
        for omega, added in counts.items():
            before = self.by_omega.get(omega, [0] * tensors)
            self.by_omega[omega] = [a + b for a, b in zip(before, added, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        return {
            "facts": dict(self.facts),
            "rounds": [asdict(one) for one in self.rounds],
            "by_round": self.by_round,
            "by_omega": self.by_omega,
            "seconds": self.training.seconds,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.facts = dict(saved["facts"])
        self.rounds = [Round.of_saved(one) for one in saved["rounds"]]
        self.by_round, self.by_omega = list(saved["by_round"]), dict(saved["by_omega"])
        self.training = Stopwatch(saved["seconds"])


class Stopwatch:
    """Seconds between `start` and `stop`, summed up from `elapsed` on."""

    def __init__(self, elapsed: float = 0.0) -> None:
        self._elapsed = elapsed
        self._started: float | None = None

    def start(self) -> None:
        self._started = time.monotonic()

    def stop(self) -> None:
        self._elapsed, self._started = self.seconds, None

    @property
    def seconds(self) -> float:
        """So far, running or not."""
        return self._elapsed + (0.0 if self._started is None else time.monotonic() - self._started)

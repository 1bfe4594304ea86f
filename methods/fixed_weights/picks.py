"""What a round of clustering did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pick:
    """`count` weights fixed to the value code 2^-b, a sum of at most `omega` powers of two within `delta` of them: in
    standard deviations (`pwfn`), or a relative distance (`wfn`)."""

    code: int
    count: int
    omega: int
    delta: float


@dataclass(frozen=True)
class RoundRecord:
    """What a round did: its picks in order, phases begun, seconds."""

    picks: tuple[Pick, ...]
    phases: int
    seconds: float

    @property
    def count(self) -> int:
        """Weights fixed in this round."""
        return sum(pick.count for pick in self.picks)

    @property
    def max_delta(self) -> float:
        """Largest reach that a pick needed; 0 without picks."""
        return max((pick.delta for pick in self.picks), default=0.0)

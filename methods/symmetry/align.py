"""Many samples of one network's weights in one labelling of the hidden units.

Xiao, Liu, Bamler, "A Compact Representation for Bayesian Neural Networks By Removing Permutation Symmetry" (arXiv
2401.00611), match all samples to the first, or to the mean before alignment. `iter_mean` goes on from there: mean and
permutations in turn, which lowers the sum of squared distances to the mean, J, as k-means does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, get_args

from torch import Tensor

from benchmark import ConfigError, unknown
from methods.symmetry.choices import Reference
from methods.symmetry.frames import frame_of
from methods.symmetry.groups import PermutationGroups
from methods.symmetry.match import Matching
from methods.symmetry.matched import Match
from methods.symmetry.network_samples import NetworkSamples
from methods.symmetry.one_group import OneGroupSamples, is_one_group
from methods.symmetry.stack import Samples, applied, mean_of, sample_of, stacked

REFERENCES = get_args(Reference)
SWEEPS = 10
TOLERANCE = 1e-6
OTHERS_UP_TO = 50
"""Up to so many samples each is matched to the mean of the others, of which its own share would be large."""


@dataclass(frozen=True)
class Aligned:
    """Samples in one labelling.

    samples: name -> (K, ...), as they were but for permutations, and rotations inside of heads. matches: of every
    sample, what has been done to it. trace: J = sum of |w_k - mean|^2, after the first matching and after every sweep;
    it never rises. Running statistics and key biases without effect do not count, tensors are weighted by 1/s^2 where
    there are scales. reference: what the samples are matched to. frame_id: of that.
    """

    samples: dict[str, Tensor]
    matches: tuple[Match, ...]
    trace: tuple[float, ...]
    reference: dict[str, Tensor]
    frame_id: str

    @property
    def sweeps(self) -> int:
        """Passes over all samples after the first one."""
        return len(self.trace) - 1


class _Samples(Protocol):
    """Samples and how they are relabelled at present."""

    @property
    def count(self) -> int: ...
    def match_to_sample(self, index: int) -> None: ...
    def match_to_unaligned_mean(self) -> None: ...
    def sweep(self, *, others: bool) -> bool: ...
    def spread(self) -> float: ...
    def matches(self) -> list[Match]: ...
    def restore(self, matches: Sequence[Match]) -> None: ...


def align(
    groups: PermutationGroups,
    samples: Samples,
    *,
    reference: Reference = "iter_mean",
    matching: Matching | None = None,
    sweeps: int = SWEEPS,
    tolerance: float = TOLERANCE,
) -> Aligned:
    """Relabel the units of all samples alike.

    Args:
        samples: of K >= 2 networks, on one device; not modified.
        reference: `first`: all are matched to sample 0. `unaligned_mean`: once, to the mean of the samples as they
            are. `iter_mean`: to the first, then in sweeps to the mean of the aligned samples, up to 50 samples to that
            of the others.
        matching: by default all weights, with five restarts; restarts are made for the first match of each sample only.
        sweeps: at most so many of `iter_mean`; it ends before if nothing changes, or J falls by less than the share
            `tolerance`. A sweep that raises J, which only cosines and activations can do, is undone and is the last.

    Raises:
        ConfigError: an unknown reference, or a method that the architecture does not allow.
        ValueError: fewer than two samples, or samples of different names or shapes.
    """
    if reference not in REFERENCES:
        raise ConfigError(unknown("reference", reference, REFERENCES))
    how = Matching() if matching is None else matching
    stack = stacked(samples)
    state: _Samples = (
        OneGroupSamples(groups, stack, how)
        if how.method != "activation" and is_one_group(groups, stack)
        else NetworkSamples(groups, stack, how)
    )
    if reference == "unaligned_mean":
        state.match_to_unaligned_mean()
        trace = [state.spread()]
    else:
        state.match_to_sample(0)
        trace = [state.spread(), *_swept(state, sweeps if reference == "iter_mean" else 0, tolerance)]
    matches = state.matches()
    aligned = applied(groups, stack, matches)
    means = {"first": lambda: sample_of(stack, 0), "unaligned_mean": lambda: mean_of(stack)}
    target = means.get(reference, lambda: mean_of(aligned))()
    return Aligned(aligned, tuple(matches), tuple(trace), target, frame_of(target))


def _swept(state: _Samples, sweeps: int, tolerance: float) -> Iterator[float]:
    before = state.spread()
    for _ in range(sweeps):
        matches = state.matches()
        if not state.sweep(others=state.count <= OTHERS_UP_TO):
            return
        now = state.spread()
        if now > before:
            state.restore(matches)
            return
        yield now
        if before - now <= tolerance * before:
            return
        before = now

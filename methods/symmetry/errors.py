"""What the rooms of this package raise on purpose, besides ValueError for wrong calls."""

from __future__ import annotations

from benchmark import BenchError, NotApplicable


class UnsupportedArchitecture(NotApplicable):
    """The permutation groups of a network are not known. The text says why, which families are, and what to do."""


class FrameError(BenchError, ValueError):
    """Weights of two labellings (frames) were combined, whose entries belong to different units."""

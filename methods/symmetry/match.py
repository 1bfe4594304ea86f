"""Matching two networks by any of the ways to do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from torch import Tensor

from benchmark import ConfigError, unknown
from methods.symmetry.activation_matching import Activations, match_activations
from methods.symmetry.choices import MatchBy, WithinHead
from methods.symmetry.cosine_matching import match_cosine
from methods.symmetry.groups import PermutationGroups, Permutations
from methods.symmetry.matched import Match
from methods.symmetry.weight_matching import Pair, match_weights

METHODS = get_args(MatchBy)


@dataclass(frozen=True)
class Matching:
    """How networks are matched.

    method: all weights, activations, or cosines of first-layer rows. restarts, seed, scales, within_head: of weights,
    see `match_weights`. activations: where they are read, for method activation.

    Raises:
        ConfigError: an unknown method; method activation without activations.
    """

    method: MatchBy = "weight"
    restarts: int = 5
    seed: int = 0
    scales: Mapping[str, float] | None = None
    within_head: WithinHead = "procrustes"
    activations: Activations | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(unknown("matching", self.method, METHODS))
        if self.method == "activation" and self.activations is None:
            raise ConfigError("matching 'activation' needs inputs: give Activations(network, groups, split)")


def match(
    groups: PermutationGroups,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    matching: Matching | None = None,
    *,
    start: Permutations | None = None,
    restarts: int | None = None,
    sigmas: Pair | None = None,
) -> Match:
    """How `b` is relabelled to be like `a`. a, b: name -> tensor, all weights of two networks of one architecture.

    matching: by default all weights with five restarts. start, sigmas: see `match_weights`, only there. restarts: in
    place of that of `matching`.

    Raises:
        ConfigError: the architecture does not allow the method; standard deviations with a method that cannot use them.
        ValueError: names or shapes differ.
    """
    how = Matching() if matching is None else matching
    if sigmas is not None and how.method != "weight":
        raise ConfigError(f"matching '{how.method}' does not look at standard deviations. Use matching: weight")
    if how.method == "cosine_fc1":
        return match_cosine(groups, a, b)
    if how.activations is not None and how.method == "activation":
        return match_activations(how.activations, a, b)
    return match_weights(
        groups,
        a,
        b,
        restarts=how.restarts if restarts is None else restarts,
        seed=how.seed,
        scales=how.scales,
        start=start,
        within_head=how.within_head,
        sigmas=sigmas,
    )

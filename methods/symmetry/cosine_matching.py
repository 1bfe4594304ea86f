"""Matching by the first layer alone: the cosine of incoming weights, for networks with one hidden layer.

The released code of Xiao, Liu, Bamler (arXiv 2401.00611) calls this weight matching. Biases and outgoing weights do
not count, which is why `weight_matching` recovers more.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from benchmark import ConfigError
from methods.symmetry.groups import PermutationGroups
from methods.symmetry.matched import Match


def match_cosine(groups: PermutationGroups, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Match:
    """The permutation of the hidden units of `b` with the largest sum of cosines of first-layer rows.

    Raises:
        ConfigError: the network has not exactly one group of units.
    """
    group, name = first_layer(groups)
    similarity = cosine_similarity(groups.viewed(name, a[name]), groups.viewed(name, b[name])).cpu().numpy()
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    objective = float(similarity[rows, columns].sum())
    return Match({group: torch.as_tensor(columns, dtype=torch.int64)}, objective, starts=(objective,))


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of all pairs of rows, float64. a: (n, ...), b: (m, ...) -> (n, m). A row of zeros is like nothing: 0."""
    return unit_rows(a) @ unit_rows(b).T


def unit_rows(weight: Tensor, leading: int = 0) -> Tensor:
    """Rows of length 1 or 0: weight (..., n, rest...) with `leading` axes in front -> (..., n, F), float64."""
    rows = weight.detach().double().flatten(leading + 1)
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return torch.where(length > 0, rows / length, 0.0)


def first_layer(groups: PermutationGroups) -> tuple[str, str]:
    """The only group, and the name of the weight whose rows are its units.

    Raises:
        ConfigError: there are several groups, or none, or no such weight.
    """
    if len(groups.sizes) != 1:
        raise ConfigError(
            f"matching 'cosine_fc1' is for networks with one hidden layer; this one has {len(groups.sizes)} groups of "
            "units. Use matching: weight"
        )
    (group,) = groups.sizes
    for name, axes in groups.axes.items():
        if len(axes) > 1 and axes[0] == group:
            return group, name
    raise ConfigError(f"no weight has the units of '{group}' as its rows: matching 'cosine_fc1' needs one. Use: weight")

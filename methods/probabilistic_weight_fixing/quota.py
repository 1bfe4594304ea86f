"""The last pick of a round: more weights than are left to fix."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.probabilistic_weight_fixing.free import Free, positions


def keep_nearest(free: Free, pick_of: Tensor, pick: int, value: float, keep: int) -> None:
    """Leave only the `keep` nearest members of a pick, by (D, flat index); the others' label becomes -1, in place.

    pick_of: (n,) integers, labels of the free weights. D is the distance to the value in sigmas of the weight, also of
    the weights that are members by zero_fix.
    """
    index, distance = [], []
    for block in free.blocks():
        own = positions(pick_of[block] == pick).add_(block.start)
        distance.append(free.distance(own, value))
        index.append(own.to(torch.int32))
    members, distances = torch.cat(index), torch.cat(distance)
    limit = distances.kthvalue(keep).values
    beyond = positions(distances > limit)
    at_limit = positions(distances == limit)
    ties = keep - (len(distances) - len(beyond) - len(at_limit))
    leaving = torch.cat([beyond, at_limit[ties:]])
    pick_of.index_fill_(0, members.index_select(0, leaving).long(), -1)

"""The processes that train one run together, one per device. A run on one device is a team of one, which costs nothing.

Every member runs the same `fit` with the same seeds on its share of each batch. What they exchange is here; who starts
them and notices when one dies, in `benchmark.team.leader`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.data import Share


class Team:
    """What a member can ask of the others. Every method must be called by all members, in the same order.

    rank: 0 .. size - 1; member 0 alone writes files. This class is the team of one; `Together` is a larger one.
    """

    rank: int = 0
    size: int = 1

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over the members, in place, the same bits for all of them. Shapes and dtypes
        are the same for all. Does not wait for the device."""

    def from_first(self, compute: Callable[[], Sequence[float]], n: int) -> list[float]:
        """What `compute` returns on member 0, `n` numbers; the others do not call it, and wait."""
        return list(compute())

    def first_says(self, flag: bool) -> bool:
        """The flag of member 0."""
        return flag

    def require_same(self, what: str, text: str) -> None:
        """Refuse to go on where members do not have the same text; returns once all of them have come here.

        Raises:
            MembersDiffer: names `what`.
        """

    def share(self, parts: int) -> Share | None:
        """Which of a batch's `parts` are this member's; None for all of them.

        Raises:
            ValueError: `parts` is no multiple of the team's size.
        """
        if self.size == 1:
            return None
        from benchmark.data import Share

        return Share(self.rank, self.size, parts)


ALONE = Team()

"""Which member of the ensemble computes which row of a batch, and layers that follow it.

Rows are sorted by member before they enter the block, so that a layer is applied piece by piece, once per member.
Gathering a weight per row instead, for one grouped convolution, takes batch x weights numbers of memory and was 3 to
14 times slower on a CPU (64 channels of 2x2 to 8x8, 512 of 4x4; 20 members).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmark import ConfigError
from methods.finetuning import per_example
from methods.finetuning.intercept import Rule, RuledWeight


class Layout:
    """Requested rows: row j is example `examples[j]` under member `members[j]` (CPU int64 (E,)).

    counts: rows per member. The other tensors are on `device`: `sources` (E,), the example of each row as sorted by
    member; `sorted_members` (E,), its member; `places` (E,), where the requested rows went.
    """

    def __init__(self, examples: Tensor, members: Tensor, n_members: int, device: torch.device) -> None:
        # Sorted on the CPU, where the members are drawn: the counts are needed there, without waiting for the device.
        order = torch.argsort(members, stable=True)
        self.counts: list[int] = torch.bincount(members, minlength=n_members).tolist()
        self.sources = examples[order].to(device)
        self.sorted_members = members[order].to(device)
        self.places = torch.argsort(order).to(device)

    @classmethod
    def all_pairs(cls, n_examples: int, n_members: int, device: torch.device) -> Layout:
        """Every example under every member: row c n + i is example i under member c."""
        members = torch.arange(n_members).repeat_interleave(n_examples)
        return cls(torch.arange(n_examples).repeat(n_members), members, n_members, device)


class ByMember(Rule):
    """Every ruled weight is a stack of C copies, (C, *shape); row by row, layers use the copy that the layout says.

    Inputs may have k times as many rows as the layout, the k of one example next to each other (windows of attention).
    """

    def __init__(self, stacks: Mapping[str, Tensor], layout: Layout) -> None:
        super().__init__()
        self._stacks, self._layout = stacks, layout

    def weights(self) -> dict[str, RuledWeight]:
        """The network's parameters of these names, for one forward pass."""
        return {name: RuledWeight.of(name, stack[0], self) for name, stack in self._stacks.items()}

    def whole(self, weight: RuledWeight) -> Tensor:
        """There is none.

        Raises:
            ConfigError: always; the members differ.
        """
        raise ConfigError(
            f"weight '{weight.key}' is used by a function that cannot have one weight per example: "
            f"{', '.join(sorted(self.fallbacks))}"
        )

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        return self._piecewise(x, functional.linear, weight, bias)

    def conv(
        self,
        function: Callable[..., Tensor],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        settings: Any,
        groups: int,
    ) -> Any:
        return self._piecewise(x, lambda part, w, b: function(part, w, b, *settings, groups), weight, bias)

    def affine(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, *, channels_last: bool) -> Any:
        members = self._layout.sorted_members.repeat_interleave(self._rows_per_example(x))

        def gathered(value: Tensor | None) -> Tensor | None:
            if isinstance(value, RuledWeight):
                return self._stacks[value.key][members]
            return None if value is None else value.expand(len(x), *value.shape)

        return per_example.affine(x, gathered(weight), gathered(bias), channels_last=channels_last)

    def _piecewise(self, x: Tensor, function: Callable[..., Tensor], *weights: Tensor | None) -> Tensor:
        rows = self._rows_per_example(x)
        parts = x.split([count * rows for count in self._layout.counts])
        copies = [self._copies(weight) for weight in weights]
        return torch.cat([function(part, *own) for part, *own in zip(parts, *copies, strict=True) if len(part)])

    def _copies(self, weight: Tensor | None) -> Sequence[Tensor | None]:
        if isinstance(weight, RuledWeight):
            return self._stacks[weight.key].unbind()
        return [weight] * len(self._layout.counts)

    def _rows_per_example(self, x: Tensor) -> int:
        rows, rest = divmod(len(x), len(self._layout.sources))
        if rest or rows == 0:
            raise ConfigError(
                f"a layer of the last block got {len(x)} rows for {len(self._layout.sources)} examples; the leading "
                "dimension must count examples"
            )
        return rows

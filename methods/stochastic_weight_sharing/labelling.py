"""Who belongs to which shared Gaussian: fixed during fine-tuning, and what a draw of the weights is expanded by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from methods.compressed import symbol_dtype
from methods.finetuning.flat import Flat, chunks
from methods.stochastic_weight_sharing.sharing.shared import Ellipses, Shared


class Picked:
    """Some of the weights. index: flat indices, int64 (m,), rising. local: by name, indices in the tensor."""

    def __init__(self, index: Tensor, shapes: Mapping[str, torch.Size]) -> None:
        sizes = torch.tensor([shape.numel() for shape in shapes.values()], device=index.device)
        ends = sizes.cumsum(0)
        cuts = torch.searchsorted(index, ends)  # ends: index < end belongs to this tensor or one before it
        self.index = index
        self.counts = cuts.diff(prepend=cuts.new_zeros(1))
        pieces = (index - torch.repeat_interleave(ends - sizes, self.counts)).split(self.counts.tolist())
        self.local = dict(zip(shapes, pieces, strict=True))

    def __len__(self) -> int:
        return len(self.index)

    def of(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The elements (m,) that `tensors`, by name, have at these weights."""
        return torch.cat([tensors[name].reshape(-1).index_select(0, at) for name, at in self.local.items()])

    def spread(self, values: Mapping[str, float]) -> Tensor:
        """(m,) float64: each weight gets the value of its tensor."""
        table = torch.tensor([values[name] for name in self.local], dtype=torch.float64, device=self.index.device)
        return torch.repeat_interleave(table, self.counts)


@dataclass(frozen=True)
class Labelling:
    """The parts of a `Shared` that no step changes.

    shapes, scale: the tensors and their r. components: K. symbols: (N,) uint8, int16 or int32, the cluster whose
    Gaussian a weight has, and K where it has none: outliers and ellipse points, which are drawn one by one.
    outlier_index: int64 (|O|,), rising. blend: the ellipse points; first: the first cluster of each, int64 (|E|,).
    """

    shapes: dict[str, torch.Size]
    scale: dict[str, float]
    components: int
    symbols: Tensor
    outlier_index: Tensor
    first: Tensor
    blend: Ellipses

    @classmethod
    def of(cls, shared: Shared) -> Labelling:
        """A copy, on the device of the labels. Scales are rounded to float32, as they are stored."""
        symbols = shared.labels.to(symbol_dtype(shared.components), copy=True)
        symbols.index_fill_(0, shared.outliers.index, shared.components)
        return cls.of_symbols(shared.shapes, shared.scale, shared.components, symbols, shared.ellipses)

    @classmethod
    def of_symbols(
        cls,
        shapes: Mapping[str, torch.Size],
        scale: Mapping[str, float],
        components: int,
        symbols: Tensor,
        blend: Ellipses,
    ) -> Labelling:
        """symbols: (N,) as `labelled_symbols` returns them, of dtype `symbol_dtype`; kept and written to."""
        outliers = (symbols == components).nonzero().squeeze(1)
        first = symbols.index_select(0, blend.index).long()
        symbols.index_fill_(0, blend.index, components)
        rounded = torch.tensor([scale[name] for name in shapes], dtype=torch.float32).tolist()
        return cls(dict(shapes), dict(zip(shapes, rounded, strict=True)), components, symbols, outliers, first, blend)

    def labelled_symbols(self) -> Tensor:
        """A copy of the symbols in which K marks the outliers only: what is stored."""
        return self.symbols.index_copy(0, self.blend.index, self.first.to(self.symbols.dtype))

    @cached_property
    def outliers(self) -> Picked:
        """The outliers."""
        return Picked(self.outlier_index, self.shapes)

    @cached_property
    def ellipses(self) -> Picked:
        """The ellipse points."""
        return Picked(self.blend.index, self.shapes)

    @cached_property
    def ellipse_scale(self) -> Tensor:
        """r of each ellipse point, float64 (|E|,)."""
        return self.ellipses.spread(self.scale)

    def counts(self) -> Iterator[tuple[str, Tensor]]:
        """For each tensor, how many weights are drawn with each cluster, float64 (K,)."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        for name, symbols in zip(self.shapes, self.symbols.split(sizes), strict=True):
            yield name, torch.bincount(symbols, minlength=self.components + 1)[:-1].double()

    def place(self, out: Flat, table: Tensor) -> None:
        """Set every weight in `out` to r times its cluster's entry of `table` (K,); those drawn by themselves to 0."""
        for r, symbols, (part,) in self.pieces(out.views):
            part.copy_(pad(table * r, (0, 1)).index_select(0, symbols))

    def perturb(self, noise: Flat, centre: Tensor, deviation: Tensor) -> None:
        """Turn standard normal `noise` into r (centre + deviation noise), in place; centre, deviation: (K,)."""
        for r, symbols, (part,) in self.pieces(noise.views):
            part.mul_(pad(deviation * r, (0, 1)).index_select(0, symbols))
            part.add_(pad(centre * r, (0, 1)).index_select(0, symbols))

    def pieces(self, *tensors: Mapping[str, Tensor]) -> Iterator[tuple[float, Tensor, list[Tensor]]]:
        """(r, symbols int32 (m,), the flat part (m,) of each of `tensors`), in flat order, by pieces that fit a
        processor's cache."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        for name, symbols in zip(self.shapes, self.symbols.split(sizes), strict=True):
            for own, *parts in chunks(symbols, *(named[name].reshape(-1) for named in tensors)):
                yield self.scale[name], own.int(), parts

    def state_dict(self) -> dict[str, Any]:
        """Numbers, strings and tensors only: see `of_saved`."""
        return {
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "scale": dict(self.scale),
            "components": self.components,
            "symbols": self.labelled_symbols(),
            "blend": {"index": self.blend.index, "second": self.blend.second, "level": self.blend.level},
        }

    @classmethod
    def of_saved(cls, saved: Mapping[str, Any], device: torch.device) -> Labelling:
        """The inverse of `state_dict`."""
        blend = {name: tensor.to(device) for name, tensor in saved["blend"].items()}
        shapes = {name: torch.Size(shape) for name, shape in saved["shapes"].items()}
        symbols = saved["symbols"].to(device, copy=True)
        return cls.of_symbols(shapes, saved["scale"], saved["components"], symbols, Ellipses(**blend))

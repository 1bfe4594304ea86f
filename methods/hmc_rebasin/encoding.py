"""What a file says of the summarised weights, and its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from benchmark import BitReader, BitWriter, ConfigError, CorruptBitstream
from methods.finetuning.flat import Flat
from methods.hmc_rebasin.choices import Encoding
from methods.hmc_rebasin.grid import Grid, quantise
from methods.hmc_rebasin.grid_bytes import read_grid, write_grid

_SMALLEST_HALF = 2.0**-24


@dataclass(frozen=True)
class Floats:
    """As a file holds them, all float32: mean, sigma (P,), factor (r, P)."""

    mean: Tensor
    sigma: Tensor
    factor: Tensor


@dataclass(frozen=True)
class Stored:
    """The rounded Gaussian of the summarised tensors; everything is on the CPU.

    shapes: the tensors, by name. kept: (D,) bool, the entries that are not 0; None: all. numbers: of the P kept
    entries in flat order.
    """

    shapes: Mapping[str, torch.Size]
    encoding: Encoding
    kept: Tensor | None
    numbers: Grid | Floats

    @classmethod
    def of(
        cls,
        mu: Mapping[str, Tensor],
        sigma: Mapping[str, Tensor],
        kept: Mapping[str, Tensor],
        factor: Mapping[str, Tensor],
        encoding: Encoding,
    ) -> Stored:
        """Rounded as `encoding` says. kept: name -> bool, tensors without are kept whole. factor: empty, or name ->
        (r, ...).

        Raises:
            ValueError: names or shapes differ; a kept sigma is not positive; a kept number is not finite.
            ConfigError: an unknown encoding.
        """
        _check(mu, sigma, kept, factor, encoding)
        shapes = {name: tensor.shape for name, tensor in mu.items()}
        masks = {name: mask.cpu().flatten() for name, mask in kept.items() if not bool(mask.all())}
        mask = None
        if masks:
            whole = [masks.get(name, torch.ones(shape.numel(), dtype=torch.bool)) for name, shape in shapes.items()]
            mask = torch.cat(whole)
        means, deviations = ([_chosen(one[name], masks.get(name)) for name in shapes] for one in (mu, sigma))
        rows = [
            torch.stack([_chosen(row, masks.get(name)) for row in factor[name]]) for name in (shapes if factor else ())
        ]
        if encoding == "grid":
            return cls(shapes, encoding, mask, quantise(means, deviations, rows))
        columns = torch.cat(rows, 1) if rows else torch.zeros(0, sum(len(one) for one in means))
        return cls(shapes, encoding, mask, _rounded(torch.cat(means), torch.cat(deviations), columns, encoding))

    @property
    def rank(self) -> int:
        """Columns of the low-rank factor; 0: a diagonal covariance."""
        return len(self.numbers.factor)

    def mean(self) -> Tensor:
        """(D,) float32, 0 where nothing is kept."""
        return self.spread(self.numbers.mean() if isinstance(self.numbers, Grid) else self.numbers.mean)

    def sigma(self) -> Tensor:
        """(D,) float32, 0 where nothing is kept."""
        return self.spread(self.numbers.sigma() if isinstance(self.numbers, Grid) else self.numbers.sigma)

    def factor(self) -> Tensor:
        """(r, D) float32, 0 where nothing is kept."""
        return self.spread(self.numbers.columns() if isinstance(self.numbers, Grid) else self.numbers.factor)

    def spread(self, values: Tensor) -> Tensor:
        """(..., P) numbers in their places of (..., D)."""
        if self.kept is None:
            return values
        out = values.new_zeros(*values.shape[:-1], len(self.kept))
        out[..., self.kept] = values
        return out


def write_stored(out: BitWriter, stored: Stored) -> None:
    """Nothing is lost. The tensors' names and shapes are not written: the reader knows them. Entries that are 0 are
    one mask over the tensors that have some."""
    masks = [] if stored.kept is None else list(stored.kept.split([shape.numel() for shape in stored.shapes.values()]))
    holed = [position for position, mask in enumerate(masks) if not bool(mask.all())]
    out.json("settings", {"encoding": stored.encoding, "holed": holed})
    if holed:
        out.indices("kept", torch.cat([masks[position] for position in holed]))
    if isinstance(stored.numbers, Grid):
        write_grid(out, stored.numbers)
        return
    width: Literal["float16", "float32"] = "float16" if stored.encoding == "fp16" else "float32"
    for name, tensor in (
        ("mu", stored.numbers.mean),
        ("sigma", stored.numbers.sigma),
        ("factor", stored.numbers.factor),
    ):
        out.tensor(name, tensor, width)


def read_stored(src: BitReader, shapes: Mapping[str, torch.Size]) -> Stored:
    """The inverse of `write_stored` for tensors of these shapes.

    Raises:
        CorruptBitstream: the bytes are damaged, or hold weights of another architecture.
    """
    encoding, holed = _read_settings(src.json("settings"), len(shapes))
    sizes = [shape.numel() for shape in shapes.values()]
    kept = _read_mask(src, holed, sizes) if holed else None
    counts = sizes if kept is None else [int(mask.sum()) for mask in kept.split(sizes)]
    if encoding == "grid":
        return Stored(shapes, encoding, kept, read_grid(src, counts))
    mean, sigma, factor = (src.tensor(name) for name in ("mu", "sigma", "factor"))
    total = sum(counts)
    if mean.shape != (total,) or sigma.shape != (total,) or factor.ndim != 2 or factor.shape[1] != total:
        raise CorruptBitstream("the stored Gaussians are those of another architecture")
    if not all(bool(one.isfinite().all()) for one in (mean, sigma, factor)) or not bool((sigma > 0).all()):
        raise CorruptBitstream("the stored Gaussians hold numbers that are not finite, or a sigma that is not positive")
    return Stored(shapes, encoding, kept, Floats(mean, sigma, factor))


def _check(
    mu: Mapping[str, Tensor],
    sigma: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    factor: Mapping[str, Tensor],
    encoding: str,
) -> None:
    if encoding not in get_args(Encoding):
        raise ConfigError(f"encoding is '{encoding}'; legal: {', '.join(get_args(Encoding))}")
    shapes = {name: tensor.shape for name, tensor in mu.items()}
    same = shapes == {name: tensor.shape for name, tensor in sigma.items()}
    masks = all(
        name in shapes and mask.shape == shapes[name] and mask.dtype == torch.bool for name, mask in kept.items()
    )
    rows = not factor or {name: tensor.shape[1:] for name, tensor in factor.items()} == shapes
    if not shapes or not (same and masks and rows) or len({len(tensor) for tensor in factor.values()}) > 1:
        raise ValueError(
            "mu, sigma, bool masks and rows of a low-rank factor need the same names and shapes, at least one tensor"
        )


def _chosen(tensor: Tensor, mask: Tensor | None) -> Tensor:
    """Kept entries of one tensor, flat on the CPU."""
    flat = tensor.detach().flatten().cpu()
    return flat if mask is None else flat[mask]


def _rounded(mean: Tensor, sigma: Tensor, factor: Tensor, encoding: Encoding) -> Floats:
    if encoding == "fp16":  # no deviation may become 0
        mean, sigma, factor = mean.half(), sigma.clamp(min=_SMALLEST_HALF).half(), factor.half()
    floats = Floats(mean.float(), sigma.float(), factor.float())
    if not all(bool(one.isfinite().all()) for one in (floats.mean, floats.sigma, floats.factor)):
        raise ValueError(f"a mean or a deviation is not finite in encoding '{encoding}'; fp16 ends at 65504")
    if not bool((floats.sigma > 0).all()):
        raise ValueError("sigma must be above 0 where it is kept; leave entries without sigma out")
    return floats


def _read_settings(found: object, tensors: int) -> tuple[Encoding, list[int]]:
    if not isinstance(found, dict) or found.keys() != {"encoding", "holed"}:
        raise CorruptBitstream("the stored settings are not encoding, holed")
    encoding, holed = found["encoding"], found["holed"]
    if encoding not in get_args(Encoding):
        raise CorruptBitstream(f"encoding is {encoding!r}; legal: {', '.join(get_args(Encoding))}")
    if not isinstance(holed, list) or not all(type(one) is int and 0 <= one < tensors for one in holed):
        raise CorruptBitstream(f"the tensors with entries left out are {holed!r}; legal: numbers below {tensors}")
    if holed != sorted(set(holed)):
        raise CorruptBitstream("the tensors with entries left out are not in order")
    return encoding, holed


def _read_mask(src: BitReader, holed: list[int], sizes: list[int]) -> Tensor:
    found = src.indices("kept")
    if found.dtype != torch.bool or found.shape != (sum(sizes[position] for position in holed),):
        raise CorruptBitstream("the stored mask is that of another architecture")
    starts = np.cumsum([0, *sizes]).tolist()
    kept, start = torch.ones(starts[-1], dtype=torch.bool), 0
    for position in holed:
        stop = start + sizes[position]
        kept[starts[position] : starts[position + 1]] = found[start:stop]
        start = stop
    return kept


def named(flat: Tensor, shapes: Mapping[str, torch.Size], device: torch.device) -> Flat:
    """Flat numbers (D,) as named tensors on a device, in one piece of memory."""
    made = Flat(shapes, flat.dtype, device)
    made.flat.copy_(flat)
    return made

"""Shared Gaussians as bytes: a symbol per weight, a few numbers per cluster, two per outlier.

The symbol K marks an outlier. Coding it among the labels takes as many bits as a mask and the labels of the others, and
one pass. Symbols are coded under one histogram, or one per tensor where that is shorter, tables included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from benchmark import BitReader, BitWriter, CorruptBitstream
from methods.compressed import symbol_dtype
from methods.stochastic_weight_sharing.labelling import Labelling
from methods.stochastic_weight_sharing.sampler import Sampling
from methods.stochastic_weight_sharing.sharing.plane import HIGHEST_SIGMA, LOWEST_SIGMA
from methods.stochastic_weight_sharing.sharing.shared import Ellipses

Storage = Literal["compact", "exact"]

STEPS_PER_NAT = 16
TABLE_BITS = 12
"""Of one entry of a stored histogram, about."""
LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class Stored:
    """What a file says of the Gaussians.

    table: (2 or 5, K) float32, of the codebook. outlier_x, outlier_log_s: (|O|,) float32, mean and log deviation of
    outliers in units of the tensor's scale. All on one device.
    """

    labelling: Labelling
    table: Tensor
    outlier_x: Tensor
    outlier_log_s: Tensor
    sampling: Sampling
    storage: Storage


def rounded_outliers(x: Tensor, log_s: Tensor, storage: Storage) -> tuple[Tensor, Tensor]:
    """(x, ln s) as they are stored, float32 (|O|,). exact: float32. compact: x is a float16, ln s on a grid of 1/16
    nat within the limits of sigma."""
    if storage == "exact":
        return x.float(), log_s.float()
    level = (log_s.double().clamp(math.log(LOWEST_SIGMA), math.log(HIGHEST_SIGMA)) * STEPS_PER_NAT).round()
    return x.clamp(-LARGEST_HALF, LARGEST_HALF).half().float(), (level / STEPS_PER_NAT).float()


def write_stored(out: BitWriter, stored: Stored) -> None:
    """`stored` must hold rounded numbers. The tensors' names and shapes are not written: the reader knows them."""
    labelling = stored.labelling
    symbols = labelling.labelled_symbols()
    by_tensor = symbols.split([shape.numel() for shape in labelling.shapes.values()])
    layout = "per_tensor" if _shorter_per_tensor(by_tensor, labelling.components) else "one"
    pieces = by_tensor if layout == "per_tensor" else [symbols]
    scaled = any(r != 1 for r in labelling.scale.values())
    blended = len(labelling.first) > 0
    settings = {"sampling": stored.sampling, "storage": stored.storage}
    out.json("settings", {**settings, "labels": layout, "scaled": scaled, "blended": blended})
    out.tensor("codebook", stored.table)
    for name, piece in zip(_label_sections(layout, len(pieces)), pieces, strict=True):
        out.indices(name, piece)
    if scaled:
        out.tensor("scale", torch.tensor(list(labelling.scale.values())))
    if blended:
        _write_ellipses(out, labelling)
    if stored.storage == "exact":
        out.tensor("outliers.mean", stored.outlier_x)
        out.tensor("outliers.log_sd", stored.outlier_log_s)
    else:
        out.tensor("outliers.mean", stored.outlier_x, "float16")
        out.indices("outliers.log_sd", (stored.outlier_log_s * STEPS_PER_NAT).round().to(torch.int16))


def read_stored(src: BitReader, shapes: Mapping[str, torch.Size], device: torch.device) -> Stored:
    """The inverse of `write_stored` for tensors of these shapes, on `device`.

    Raises:
        CorruptBitstream: the bytes are damaged, or hold weights of another architecture.
    """
    settings = _read_settings(src)
    table = src.tensor("codebook")
    if table.ndim != 2 or len(table) not in (2, 5) or not table.shape[1]:
        raise CorruptBitstream(f"a codebook of shape {tuple(table.shape)}; legal: 2 or 5 rows, at least one column")
    labelling = _read_labelling(src, settings, shapes, table.shape[1], device)
    x = src.tensor("outliers.mean")
    log_s = _read_log_deviations(src, settings["storage"])
    if not x.shape == log_s.shape == labelling.outlier_index.shape:
        raise CorruptBitstream(
            f"{len(labelling.outlier_index)} labels mark an outlier, and there are {x.numel()} means and "
            f"{log_s.numel()} deviations of outliers"
        )
    return Stored(
        labelling, table.to(device), x.to(device), log_s.to(device), settings["sampling"], settings["storage"]
    )


def _read_labelling(
    src: BitReader, settings: Mapping[str, Any], shapes: Mapping[str, torch.Size], components: int, device: torch.device
) -> Labelling:
    symbols = _read_symbols(src, settings["labels"], shapes, components).to(device)
    scale = src.tensor("scale") if settings["scaled"] else torch.ones(len(shapes))
    if scale.shape != (len(shapes),) or not bool((scale > 0).all()):
        raise CorruptBitstream(f"the stored scales are not {len(shapes)} positive numbers")
    blend = _read_ellipses(src, symbols, components) if settings["blended"] else Ellipses.none(device)
    return Labelling.of_symbols(shapes, dict(zip(shapes, scale.tolist(), strict=True)), components, symbols, blend)


def label_bits(counts: Tensor) -> float:
    """Entropy-coded length in bits of symbols with these counts (M,): n log2 n - sum c log2 c."""
    exact = counts.double()
    n = exact.sum()
    return float(torch.xlogy(n, n) - torch.xlogy(exact, exact).sum()) / math.log(2)


def _shorter_per_tensor(symbols: Sequence[Tensor], components: int) -> bool:
    """Whether histograms of their own save more than their tables take."""
    whole = torch.zeros(components + 1, dtype=torch.int64, device=symbols[0].device)
    own = 0.0
    for piece in symbols:
        counts = torch.bincount(piece, minlength=components + 1)
        whole += counts
        own += _coded_bits(counts)
    return own < _coded_bits(whole)


def _coded_bits(counts: Tensor) -> float:
    return label_bits(counts) + TABLE_BITS * int(counts.count_nonzero())


def _read_settings(src: BitReader) -> dict[str, Any]:
    settings = src.json("settings")
    legal: dict[str, tuple[object, ...]] = {
        "sampling": ("independent", "tied"),
        "storage": ("compact", "exact"),
        "labels": ("one", "per_tensor"),
        "scaled": (False, True),
        "blended": (False, True),
    }
    if not isinstance(settings, dict) or settings.keys() != legal.keys():
        raise CorruptBitstream(f"the stored settings are not {', '.join(legal)}")
    for name, values in legal.items():
        if settings[name] not in values:
            raise CorruptBitstream(
                f"the stored setting {name} is {settings[name]!r}; legal: {', '.join(map(repr, values))}"
            )
    return settings


def _read_symbols(src: BitReader, layout: str, shapes: Mapping[str, torch.Size], components: int) -> Tensor:
    sizes = [shape.numel() for shape in shapes.values()]
    if layout == "one":
        sizes = [sum(sizes)]
    pieces = [src.indices(name) for name in _label_sections(layout, len(sizes))]
    if [piece.shape for piece in pieces] != [(size,) for size in sizes]:
        raise CorruptBitstream("the stored labels are those of another architecture")
    for piece in pieces:
        if len(piece) and not (int(piece.min()) >= 0 and int(piece.max()) <= components):
            raise CorruptBitstream(
                f"labels from {int(piece.min())} to {int(piece.max())}; with {components} clusters the legal ones are "
                f"0 to {components}, the last for outliers"
            )
    return torch.cat(pieces).to(symbol_dtype(components))


def _label_sections(layout: str, tensors: int) -> list[str]:
    return ["labels"] if layout == "one" else [f"labels.{position}" for position in range(tensors)]


def _write_ellipses(out: BitWriter, labelling: Labelling) -> None:
    inliers = labelling.labelled_symbols() != labelling.components
    blended = torch.zeros_like(inliers).index_fill_(0, labelling.blend.index, True)
    out.indices("ellipses.mask", blended[inliers])
    out.indices("ellipses.second", labelling.blend.second.to(symbol_dtype(labelling.components)))
    out.indices("ellipses.level", labelling.blend.level)


def _read_ellipses(src: BitReader, symbols: Tensor, components: int) -> Ellipses:
    mask, second, level = (src.indices(f"ellipses.{p}").to(symbols.device) for p in ("mask", "second", "level"))
    inliers = (symbols != components).nonzero().squeeze(1)
    if mask.dtype != torch.bool or mask.shape != inliers.shape:
        raise CorruptBitstream("the stored mask of ellipse points does not fit the labels")
    index = inliers[mask]
    if not (second.shape == level.shape == index.shape and level.dtype == torch.uint8):
        raise CorruptBitstream(f"{len(index)} ellipse points with {second.numel()} clusters, {level.numel()} levels")
    if len(second) and not (int(second.min()) >= 0 and int(second.max()) < components):
        raise CorruptBitstream(
            f"second clusters from {int(second.min())} to {int(second.max())}; legal: 0 to {components - 1}"
        )
    return Ellipses(index, second.long(), level)


def _read_log_deviations(src: BitReader, storage: Storage) -> Tensor:
    if storage == "exact":
        return src.tensor("outliers.log_sd")
    return src.indices("outliers.log_sd").float() / STEPS_PER_NAT

"""Fixed weights as bytes: a label per weight, and a codebook of integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from benchmark import BitReader, BitWriter, CorruptBitstream
from methods.compressed import symbol_dtype
from methods.finetuning.flat import Flat, chunks
from methods.fixed_weights.codebook import Codebook
from methods.fixed_weights.fixing import Fixing

Predict = Literal["mean", "draws"]


@dataclass(frozen=True)
class Stored:
    """What a file says of the weights in scope; all tensors on one device.

    shapes: the tensors, by name; labels run over them in order, row-major. book: with a sigma per entry where draws
    are predicted. free_mu, free_sigma: (F,) float32 of the weights that are free, free_sigma None without draws.
    """

    shapes: Mapping[str, torch.Size]
    b: int
    book: Codebook
    free_mu: Tensor
    free_sigma: Tensor | None

    @classmethod
    def of(cls, shapes: Mapping[str, torch.Size], weights: Fixing, predict: Predict) -> Stored:
        """Copies. With draws, fixed weights of one value and one sigma share an entry; not of points."""
        free = ~weights.fixed
        if predict == "mean":
            return cls(dict(shapes), weights.b, Codebook.of_values(weights), weights.mu[free], None)
        book, sigma = Codebook.of_pairs(weights), weights.deviations[free].clamp_(min=0)
        return cls(dict(shapes), weights.b, book, weights.mu[free], sigma)

    @property
    def predict(self) -> Predict:
        """What predictions are made with."""
        return "mean" if self.book.sigma is None else "draws"

    def mean(self) -> Flat:
        """Means of all weights, float32: exact multiples of 2^-b where fixed."""
        return self._spread(self.book.codes.float() * 2.0**-self.b, self.free_mu)

    def sigma(self) -> Flat | None:
        """Standard deviations of all weights, float32; None where the mean is predicted."""
        if self.book.sigma is None or self.free_sigma is None:
            return None
        return self._spread(self.book.sigma, self.free_sigma)

    def _spread(self, entries: Tensor, free: Tensor) -> Flat:
        flat, table = Flat(self.shapes, torch.float32, entries.device), torch.cat([entries, entries.new_zeros(1)])
        for out, labels in chunks(flat.flat, self.book.labels):
            torch.index_select(table, 0, labels.int(), out=out)
        if len(free):
            flat.flat[self.book.labels == len(self.book)] = free
        return flat


def write_stored(out: BitWriter, stored: Stored) -> None:
    """Labels and codes under their histograms, deviations and free weights as float32; nothing is lost. The tensors'
    names and shapes are not written: the reader knows them."""
    out.json("settings", {"b": stored.b, "predict": stored.predict})
    out.indices("codes", stored.book.codes)
    out.indices("labels", stored.book.labels)
    if stored.book.sigma is not None:
        out.tensor("sigma", stored.book.sigma)
    if len(stored.free_mu):
        out.tensor("free.mu", stored.free_mu)
        if stored.free_sigma is not None:
            out.tensor("free.sigma", stored.free_sigma)


def read_stored(src: BitReader, shapes: Mapping[str, torch.Size], device: torch.device) -> Stored:
    """The inverse of `write_stored` for tensors of these shapes, on `device`.

    Raises:
        CorruptBitstream: the bytes are damaged, or hold weights of another architecture.
    """
    settings = _read_settings(src)
    draws = settings["predict"] == "draws"
    codes, labels = src.indices("codes"), src.indices("labels")
    _check_labels(codes, labels, sum(shape.numel() for shape in shapes.values()))
    free = int((labels == len(codes)).sum())
    sigma = _read_numbers(src, "sigma", len(codes), deviations=True) if draws else None
    free_mu = _read_numbers(src, "free.mu", free) if free else torch.zeros(0)
    free_sigma = torch.zeros(0) if draws else None
    if free and draws:
        free_sigma = _read_numbers(src, "free.sigma", free, deviations=True)
    book = Codebook(codes.to(device), None if sigma is None else sigma.to(device), labels.to(device))
    return Stored(
        shapes, settings["b"], book, free_mu.to(device), None if free_sigma is None else free_sigma.to(device)
    )


def _check_labels(codes: Tensor, labels: Tensor, weights: int) -> None:
    if labels.shape != (weights,):
        raise CorruptBitstream("the stored labels are those of another architecture")
    if codes.ndim != 1 or codes.dtype not in (torch.int16, torch.int32):
        raise CorruptBitstream(f"codes of shape {tuple(codes.shape)} and {codes.dtype}; legal: (K,) int16 or int32")
    low, high = int(labels.min()), int(labels.max())
    if labels.dtype != symbol_dtype(len(codes)) or low < 0 or high > len(codes):
        raise CorruptBitstream(
            f"{labels.dtype} labels from {low} to {high}; with {len(codes)} values the legal ones are "
            f"{symbol_dtype(len(codes))} 0 to {len(codes)}, the last for free weights"
        )


def _read_settings(src: BitReader) -> dict[str, Any]:
    settings = src.json("settings")
    if not isinstance(settings, dict) or settings.keys() != {"b", "predict"}:
        raise CorruptBitstream("the stored settings are not b, predict")
    legal: dict[str, tuple[object, ...]] = {"b": tuple(range(1, 16)), "predict": ("mean", "draws")}
    for name, values in legal.items():
        if settings[name] not in values or isinstance(settings[name], bool):
            raise CorruptBitstream(f"{name} is {settings[name]!r}; legal: {', '.join(map(repr, values))}")
    return settings


def _read_numbers(src: BitReader, name: str, count: int, *, deviations: bool = False) -> Tensor:
    values = src.tensor(name)
    if values.shape != (count,):
        raise CorruptBitstream(f"section '{name}' has shape {tuple(values.shape)}, the labels ask for ({count},)")
    if not bool(values.isfinite().all()) or (deviations and bool((values < 0).any())):
        raise CorruptBitstream(f"section '{name}' holds numbers that are {'negative or ' * deviations}not finite")
    return values

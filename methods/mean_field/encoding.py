"""A factorised Gaussian as integers: grids whose steps follow sigma, so that precision goes where it matters.

psi is rounded to a grid of 1/4 nat through 0, then mu to a grid of sigma/4 (sigma as decoded) through 0, ties to even.
The mu indices of a tensor are coded under N(0, rms(mu)^2), cut into each weight's own steps; the psi indices of a
tensor under their own histogram, so that a tensor with one common sigma costs a few bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Context, Decimal
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmark import BitReader, BitWriter, CorruptBitstream
from methods.mean_field.prior import LOWEST_PSI

PSI_STEP = 0.25
MU_STEP = 0.25

_DECIMAL = Context(prec=40)


class Grid(NamedTuple):
    """Integers on their grids, all tensors in one row (D,): `psi` int16, `mu` int64."""

    psi: npt.NDArray[np.int16]
    mu: npt.NDArray[np.int64]


def quantise(mean: Tensor, log_sd: Tensor, mu_step: float = MU_STEP, psi_step: float = PSI_STEP) -> Grid:
    """Indices of flat `mean` and `log_sd` (D,)."""
    # Below LOWEST_PSI the steps of mu would overflow their indices.
    psi = log_sd.double().clamp(min=LOWEST_PSI).div(psi_step).round().to(torch.int16).cpu().numpy()
    steps = steps_of(psi, mu_step, psi_step)
    return Grid(psi, np.rint(mean.double().cpu().numpy() / steps).astype(np.int64))


def dequantise(grid: Grid, mu_step: float = MU_STEP, psi_step: float = PSI_STEP) -> tuple[Tensor, Tensor]:
    """(mean, log_sd), float64 (D,): the centres of the cells."""
    mean = grid.mu * steps_of(grid.psi, mu_step, psi_step)
    return torch.from_numpy(mean), torch.from_numpy(grid.psi * psi_step)


def steps_of(psi: npt.NDArray[np.int16], mu_step: float = MU_STEP, psi_step: float = PSI_STEP) -> npt.NDArray:
    """Step of each mean, float64 (D,): mu_step x exp(psi_step x index).

    The exponential is computed in decimal arithmetic, which rounds correctly on every machine: the entropy coder
    needs the same bits when it decodes.
    """
    if len(psi) == 0:
        return np.zeros(0)
    lowest = int(psi.min())
    table = [mu_step * float((Decimal(psi_step) * index).exp(_DECIMAL)) for index in range(lowest, int(psi.max()) + 1)]
    return np.asarray(table)[psi.astype(np.int64) - lowest]


def write_gaussians(out: BitWriter, mean: Mapping[str, Tensor], log_sd: Mapping[str, Tensor]) -> None:
    """Write means and log deviations on their grids. Decoded without the names: the reader knows the tensors."""
    flat = torch.cat([tensor.reshape(-1) for tensor in mean.values()])
    grid = quantise(flat, torch.cat([tensor.reshape(-1) for tensor in log_sd.values()]))
    sizes = [tensor.numel() for tensor in mean.values()]
    rms = torch.stack([tensor.double().square().mean().sqrt() for tensor in mean.values()]).float().cpu()
    for position, indices in enumerate(np.split(grid.psi, np.cumsum(sizes)[:-1])):
        out.indices(f"psi.{position}", indices)
    out.tensor("rms", rms)
    out.gaussian_indices("mu", grid.mu, _std(rms, sizes, grid.psi))


def read_gaussians(src: BitReader, shapes: Mapping[str, torch.Size]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(means, log deviations) by name, float32, as `write_gaussians` wrote tensors of these shapes.

    Raises:
        CorruptBitstream: the bytes are damaged, or hold tensors of other sizes.
    """
    sizes = [shape.numel() for shape in shapes.values()]
    pieces = [src.indices(f"psi.{position}").numpy() for position in range(len(sizes))]
    rms = src.tensor("rms")
    if [len(piece) for piece in pieces] != sizes or len(rms) != len(sizes):
        raise CorruptBitstream("the stored Gaussians are those of another architecture")
    psi = np.concatenate(pieces)
    mu = src.gaussian_indices("mu", _std(rms, sizes, psi)).numpy()
    mean, log_sd = dequantise(Grid(psi, mu))
    return _named(mean, shapes), _named(log_sd, shapes)


def _named(flat: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    pieces = flat.float().split([shape.numel() for shape in shapes.values()])
    return {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


def _std(rms: Tensor, sizes: Sequence[int], psi: npt.NDArray[np.int16]) -> npt.NDArray:
    """Deviation of each mu index under its tensor's Gaussian, in steps, float64 (D,)."""
    std: npt.NDArray = np.repeat(rms.double().numpy(), sizes) / steps_of(psi)
    return std

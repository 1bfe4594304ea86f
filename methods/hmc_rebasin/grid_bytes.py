"""A grid of integers as bytes.

The steps of mu are coded under N(0, rms^2) of their tensor, cut into each weight's own steps, and so is every column of
a low-rank factor; the levels of sigma under their histogram.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmark import BitReader, BitWriter, CorruptBitstream
from methods.hmc_rebasin.grid import Grid, column_step

_LARGE = 2048
"""Entries from which a tensor's levels have a histogram of their own; it takes about 40 bytes."""


def write_grid(out: BitWriter, grid: Grid) -> None:
    """Nothing is lost. `sizes` are not written: the reader knows them."""
    out.json("grid", {"bits": grid.bits, "c": grid.c, "rank": len(grid.factor)})
    out.tensor("low", torch.from_numpy(grid.low))
    out.tensor("high", torch.from_numpy(grid.high))
    for name, where in _sections(grid.sizes):
        out.indices(f"level.{name}", np.concatenate([grid.level[one] for one in where]))
    sigma = grid.widths()
    rms = _rms(grid, grid.step, grid.c)
    out.tensor("mu.rms", rms)
    out.gaussian_indices("mu", grid.step, _std(grid, rms, sigma * grid.c))
    for index, column in enumerate(grid.factor):
        c = column_step(grid.c, len(grid.factor))
        rms = _rms(grid, column, c)
        out.tensor(f"factor.{index}.rms", rms)
        out.gaussian_indices(f"factor.{index}", column, _std(grid, rms, sigma * c))


def read_grid(src: BitReader, sizes: Sequence[int]) -> Grid:
    """The inverse of `write_grid` for tensors of these sizes.

    Raises:
        CorruptBitstream: the bytes are damaged, or hold tensors of other sizes.
    """
    bits, c, rank = _settings(src.json("grid"))
    low, high = _read_rows(src, "low", len(sizes)), _read_rows(src, "high", len(sizes))
    if bool((low <= 0).any()) or bool((high < low).any()):
        raise CorruptBitstream("the range of the deviations of a tensor is empty or not positive")
    level = np.zeros(sum(sizes), dtype=np.uint8)
    for name, where in _sections(sizes):
        found = src.indices(f"level.{name}").numpy()
        lengths = [one.stop - one.start for one in where]
        if found.shape != (sum(lengths),) or found.dtype != np.uint8 or (len(found) and found.max() >= 2**bits):
            raise CorruptBitstream(
                f"the stored levels '{name}' are those of another architecture or beyond {bits} bits"
            )
        for one, values in zip(where, np.split(found, np.cumsum(lengths)[:-1]), strict=True):
            level[one] = values
    none = np.zeros(len(level), dtype=np.int32)
    grid = Grid(tuple(sizes), low.numpy(), high.numpy(), level, none, np.zeros((0, len(level)), np.int32), bits, c)
    sigma = grid.widths()
    step = _read_steps(src, "mu", grid, sigma * c)
    columns = [_read_steps(src, f"factor.{index}", grid, sigma * column_step(c, rank)) for index in range(rank)]
    factor = np.stack(columns) if columns else grid.factor
    return Grid(grid.sizes, grid.low, grid.high, level, step, factor, bits, c)


def _rms(grid: Grid, steps: npt.NDArray[np.int32], c: float) -> Tensor:
    """Root mean square of each tensor's decoded values, (T,) float32; 0 of a tensor without entries."""
    width = grid.widths() * c
    rms = np.zeros(len(grid.sizes))
    for position, where in grid.pieces():
        values = steps[where] * width[position][grid.level[where]]
        rms[position] = np.sqrt(np.mean(values * values)) if len(values) else 0
    return torch.from_numpy(rms.astype(np.float32))


def _std(grid: Grid, rms: Tensor, width: npt.NDArray) -> npt.NDArray:
    """Deviation of each integer in steps, float32 (P,). width: (T, 2^bits) of a step."""
    table = (rms.double().numpy()[:, None] / width).astype(np.float32)
    return grid.spread(table)


def _sections(sizes: Sequence[int]) -> list[tuple[str, list[slice]]]:
    """Names of histograms and the tensors that they are of: each large one has its own, the small ones share one."""
    stops = np.cumsum(sizes).tolist()
    where = [slice(stop - size, stop) for stop, size in zip(stops, sizes, strict=True)]
    small = [one for one in where if one.stop - one.start < _LARGE]
    large = [(str(i), [one]) for i, one in enumerate(where) if one.stop - one.start >= _LARGE]
    return large + ([("small", small)] if small else [])


def _settings(found: object) -> tuple[int, float, int]:
    if not isinstance(found, dict) or found.keys() != {"bits", "c", "rank"}:
        raise CorruptBitstream("the settings of the grid are not bits, c, rank")
    bits, c, rank = found["bits"], found["c"], found["rank"]
    if type(bits) is not int or not 1 <= bits <= 8:
        raise CorruptBitstream(f"bits of the grid are {bits!r}; legal: 1..8")
    if type(c) is not float or not 2**-20 <= c <= 4:
        raise CorruptBitstream(f"step of the grid is {c!r} sigma; legal: 2^-20 to 4")
    if type(rank) is not int or not 0 <= rank <= 1_000_000:
        raise CorruptBitstream(f"rank of the grid is {rank!r}; legal: 0..1,000,000")
    return bits, c, rank


def _read_rows(src: BitReader, name: str, count: int) -> Tensor:
    rows = src.tensor(name)
    if rows.shape != (count,) or not bool(rows.isfinite().all()):
        raise CorruptBitstream(f"section '{name}' is not {count} finite numbers, one per tensor of this architecture")
    return rows


def _read_steps(src: BitReader, name: str, grid: Grid, width: npt.NDArray) -> npt.NDArray[np.int32]:
    rms = _read_rows(src, f"{name}.rms", len(grid.sizes))
    if bool((rms < 0).any()):
        raise CorruptBitstream(f"section '{name}.rms' holds negative numbers")
    try:
        steps = src.gaussian_indices(name, _std(grid, rms, width)).numpy()
    except ValueError as error:
        raise CorruptBitstream(f"section '{name}' was written under other deviations or sizes") from error
    if steps.shape != grid.level.shape or steps.dtype != np.int32:
        raise CorruptBitstream(f"section '{name}' is not one int32 per weight of this architecture")
    return steps

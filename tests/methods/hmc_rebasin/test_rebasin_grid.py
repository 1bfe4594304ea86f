"""The grid of integers: the oracle's indices, how far decoded numbers may be off, sizes, forgeries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compact_cases import Forged, oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import BitReader, BitWriter, CorruptBitstream
from methods.hmc_rebasin.grid import Grid, quantise
from methods.hmc_rebasin.grid_bytes import read_grid, write_grid


def gaussians(sizes, seed=0, spread=0.7):
    g = torch.Generator().manual_seed(seed)
    sigma = [0.05 * (spread * torch.randn(size, generator=g)).exp() for size in sizes]
    return [0.2 * torch.randn(size, generator=g) for size in sizes], sigma


def stored(grid: Grid) -> bytes:
    out = BitWriter()
    write_grid(out, grid)
    return out.finish()


@pytest.mark.parametrize("case", oracle("sigma_grid_encoding"), ids=lambda case: case["id"])
def test_indices_and_decoded_numbers_are_those_of_the_oracle(case):
    inputs, expected = case["inputs"], case["expected"]
    mean, std = (torch.tensor(inputs[name], dtype=torch.float64) for name in ("mean", "std"))
    grid = quantise([mean], [std], bits=inputs["bits"], c=inputs["c"])
    assert grid.level.tolist() == expected["std_index"]
    assert grid.step.tolist() == expected["mean_index"]
    assert grid.sigma().tolist() == pytest.approx(expected["std_decoded"], abs=1e-7)
    assert grid.mean().tolist() == pytest.approx(expected["mean_decoded"], abs=1e-7)


@settings(max_examples=40)
@given(
    st.lists(
        st.lists(st.tuples(st.floats(-1e4, 1e4, width=32), st.floats(2.0**-20, 1e4, width=32)), max_size=8),
        min_size=1,
        max_size=4,
    )
)
def test_decoded_numbers_are_within_half_a_step_and_come_back_from_the_bytes(tensors):
    mean = [torch.tensor([mu for mu, _ in one]) for one in tensors]
    sigma = [torch.tensor([sd for _, sd in one]) for one in tensors]
    grid = quantise(mean, sigma)
    for position, where in grid.pieces():
        if not len(mean[position]):
            continue
        raised = sigma[position].double().maximum(mean[position].double().abs() * 2.0**-20)
        decoded = grid.sigma()[where].double()
        half = (raised.max().log() - raised.min().log()) / 62
        assert ((decoded / raised).log().abs() <= half + 1e-6).all()
        off = (grid.mean()[where].double() - mean[position].double()).abs()
        assert (off <= decoded / 16 + 1e-6 * mean[position].abs()).all()
    again = read_grid(BitReader(stored(grid)), grid.sizes)
    assert all(np.array_equal(getattr(again, name), getattr(grid, name)) for name in ("level", "step", "low", "high"))
    assert torch.equal(again.mean(), grid.mean())


def test_rounding_adds_768th_of_the_variance_and_a_factor_as_much_again():
    mean, sigma = gaussians([200_000])
    factor = [sigma[0] * torch.randn(6, 200_000, generator=torch.Generator().manual_seed(1)) / 5]
    grid = quantise(mean, sigma, factor)
    decoded = grid.sigma()
    assert float(((grid.mean() - mean[0]) / decoded).square().mean()) == pytest.approx(1 / 768, rel=0.02)
    added = ((grid.columns() - factor[0]) / decoded).square().sum(0)
    assert float(added.mean()) == pytest.approx(1 / 768, rel=0.02)


def test_the_factor_comes_back_from_the_bytes():
    mean, sigma = gaussians([300, 7, 3000])
    factor = [0.3 * one * torch.randn(4, len(one)) for one in sigma]
    grid = quantise(mean, sigma, factor)
    again = read_grid(BitReader(stored(grid)), grid.sizes)
    assert np.array_equal(again.factor, grid.factor)
    assert torch.equal(again.columns(), grid.columns())


def test_a_weight_takes_the_entropies_of_its_level_and_of_its_step_and_little_more():
    sizes = [100_000, 50_000, 500]
    grid = quantise(*gaussians(sizes))
    bits = 0.0
    for position, where in grid.pieces():
        counts = np.bincount(grid.level[where])
        p = counts[counts > 0] / counts.sum()
        bits -= counts.sum() * float((p * np.log2(p)).sum())
        steps = 0.2 / (0.125 * grid.sigma()[where].double())  # std of mu in steps
        bits += float((steps * math.sqrt(2 * math.pi * math.e)).log2().sum())
        assert position < 3
    assert 8 * len(stored(grid)) <= 1.005 * bits + 8 * 600


def test_one_common_sigma_costs_nothing_per_weight():
    mean, _ = gaussians([50_000])
    grid = quantise(mean, [torch.full((50_000,), 0.3)])
    assert BitReader(stored(grid)).sections()["level.0"] < 32
    assert grid.sigma().unique().tolist() == pytest.approx([0.3])


@pytest.mark.parametrize(("mu", "sd"), [(1.0, 0.0), (1.0, -1.0), (torch.nan, 1.0), (1.0, torch.inf)])
def test_numbers_without_a_place_on_the_grid_are_refused(mu, sd):
    with pytest.raises(ValueError, match="finite means and finite sigma above 0"):
        quantise([torch.tensor([mu, 1.0])], [torch.tensor([sd, 1.0])])


GRID_SETTINGS = {"bits": 5, "c": 0.125, "rank": 0}
FORGERIES = [
    ("grid", "json", {"bits": 5}, "not bits, c, rank"),
    ("grid", "json", GRID_SETTINGS | {"bits": 9}, "bits of the grid are 9; legal: 1..8"),
    ("grid", "json", GRID_SETTINGS | {"c": 0.0}, "step of the grid is 0.0 sigma"),
    ("grid", "json", GRID_SETTINGS | {"rank": -1}, "rank of the grid is -1"),
    ("grid", "json", GRID_SETTINGS | {"bits": 2}, "beyond 2 bits"),
    ("low", "tensor", torch.zeros(2), "empty or not positive"),
    ("low", "tensor", torch.ones(3), "not 2 finite numbers"),
    ("high", "tensor", torch.full((2,), torch.nan), "not 2 finite numbers"),
    ("level.small", "indices", torch.full((70,), 40, dtype=torch.uint8), "beyond 5 bits"),
    ("level.small", "indices", torch.zeros(69, dtype=torch.uint8), "another architecture"),
    ("level.small", "indices", torch.zeros(70, dtype=torch.uint8), "written under other deviations"),
    ("mu.rms", "tensor", torch.tensor([-1.0, 1.0]), "negative"),
    ("mu.rms", "tensor", torch.tensor([9.0, 1.0]), "written under other deviations"),
]


@pytest.mark.parametrize(("section", "write", "value", "message"), FORGERIES)
def test_forged_sections_are_refused(section, write, value, message):
    out = Forged(section, write, value)
    write_grid(out, quantise(*gaussians([50, 20])))
    assert out.used
    with pytest.raises(CorruptBitstream, match=message):
        read_grid(BitReader(out.finish()), (50, 20))


def test_sizes_of_another_architecture_are_refused():
    data = stored(quantise(*gaussians([50, 20])))
    for sizes in ((50, 21), (50,), (50, 20, 1)):
        with pytest.raises(CorruptBitstream):
            read_grid(BitReader(data), sizes)

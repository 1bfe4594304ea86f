"""Samples as mean and deviation: the oracle's numbers, few samples, floors, entries without a distribution."""

from __future__ import annotations

import math

import pytest
import torch
from compact_cases import flat, nets_of, oracle, random_samples
from small_problems import small_with_token

from methods.finetuning.flat import CHUNK
from methods.hmc_rebasin.low_rank import low_rank, residual
from methods.hmc_rebasin.summary import key_biases, summarise
from methods.symmetry.errors import FrameError
from methods.symmetry.groups import Attention, PermutationGroups


def raw_sigma(samples):
    """Without the shrinkage of few samples."""
    return {name: tensor.std(0) for name, tensor in samples.items()}


@pytest.mark.parametrize("case", oracle("compact_representation"), ids=lambda case: case["id"])
@pytest.mark.parametrize("mode", ["unaligned", "weight/iter_mean"])
def test_means_and_deviations_are_those_of_the_oracle(case, mode):
    expected = case["expected"][mode]
    samples = nets_of(case, expected.get("perms"))
    summary = summarise(samples, "f")
    sigma = torch.tensor(expected["std"], dtype=torch.float64)
    assert torch.allclose(flat(summary.mu), torch.tensor(expected["mean"], dtype=torch.float64), atol=2e-6)
    k = len(samples["W1"])
    for name, tensor, wanted in zip(summary.sigma, summary.sigma.values(), sigma.split([15, 5, 10, 2]), strict=True):
        shrunk = ((k - 1) * wanted**2 + 4 * (wanted**2).mean()) / (k + 3)
        assert torch.allclose(tensor.flatten(), shrunk.sqrt(), atol=2e-6), name
    repeated = {name: tensor.repeat(5, *[1] * (tensor.ndim - 1)) for name, tensor in samples.items()}
    enough = flat(summarise(repeated, "f").sigma)  # 20 samples or more are not shrunk; ddof 1 of 5 copies
    assert torch.allclose(enough * math.sqrt((5 * k - 1) / (5 * (k - 1))), sigma, atol=2e-6)
    assert float(sigma.sum()) == pytest.approx(expected["sum_std"], abs=2e-5)


@pytest.mark.parametrize("case", oracle("compact_representation"), ids=lambda case: case["id"])
def test_low_rank_factor_eigenvalues_and_residual_are_those_of_the_oracle(case):
    expected = case["expected"]["low_rank"]
    samples = nets_of(case, case["expected"]["weight/iter_mean"]["perms"])
    found = low_rank(samples, expected["rank"])
    b = flat(found.factor, 1)
    values = torch.tensor(expected["eigenvalues"], dtype=torch.float64)
    assert torch.allclose(found.eigenvalues[: len(values)], values, atol=2e-6)
    assert found.eigenvalues[len(values) :].abs().max() < 1e-12
    outer = b.T @ b
    assert torch.allclose(outer.diagonal(), torch.tensor(expected["diag_of_B_Bt"], dtype=torch.float64), atol=2e-6)
    assert outer[0, :6].tolist() == pytest.approx(expected["BBt_first_row_first_6"], abs=2e-6)
    left = residual(flat(raw_sigma(samples)), b)
    assert left.tolist() == pytest.approx(expected["residual_std"], abs=2e-6)
    assert found.explained == pytest.approx(float(values[:2].sum()) / expected["covariance_trace"], abs=1e-6)


def test_the_factor_of_all_directions_is_the_whole_covariance():
    samples = random_samples(small_with_token(), 12)
    x = flat(samples, 1).double()
    b = flat(low_rank(samples, 11).factor, 1).double()
    assert torch.allclose(b.T @ b, torch.cov(x.T), atol=1e-6)


def test_tensors_larger_than_a_piece_are_summarised_as_a_whole():
    g = torch.Generator().manual_seed(0)
    samples = {"w": torch.randn(6, CHUNK // 5, generator=g), "b": torch.randn(6, 3, generator=g)}
    summary = summarise({name: tensor.repeat(4, 1) for name, tensor in samples.items()}, "f")
    assert torch.allclose(summary.mu["w"], samples["w"].mean(0), atol=1e-6)
    sigma = samples["w"].std(0) * math.sqrt(4 * 5 / 23)
    assert torch.allclose(summary.sigma["w"], sigma.clamp(min=float(1e-3 * summary.mu["w"].square().mean().sqrt())))
    samples = {name: tensor * 2.0 ** torch.arange(6)[:, None] for name, tensor in samples.items()}  # far eigenvalues
    b = low_rank(samples, 2).factor
    x = flat(samples, 1)
    whole = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    best = (whole.S[:2, None] * whole.Vh[:2]) / math.sqrt(5)
    found = flat(b, 1)
    assert torch.allclose((found * best).sum(1).abs(), (best**2).sum(1), rtol=1e-4)


def test_float32_sums_do_not_lose_small_deviations_of_large_means():
    values = 1000 + torch.tensor([0.0, 0.0625] * 15)[:, None]
    summary = summarise({"w": torch.cat([values, torch.zeros(30, 4095)], 1)}, "f")
    assert float(summary.sigma["w"][0]) == pytest.approx(0.03125 * math.sqrt(30 / 29), rel=1e-6)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_samples_that_are_not_finite_are_dropped_and_counted(bad):
    samples = random_samples(small_with_token(), 30)
    spoilt = {name: tensor.clone() for name, tensor in samples.items()}
    spoilt["head.bias"][3, 1] = bad
    spoilt["conv.weight"][7, 0] = bad
    rest = [index for index in range(30) if index not in (3, 7)]
    clean = summarise({name: tensor[rest] for name, tensor in samples.items()}, "f")
    summary = summarise(spoilt, "f")
    assert (summary.samples, summary.dropped) == (28, 2)
    assert all(torch.equal(summary.sigma[name], clean.sigma[name]) for name in clean.sigma)
    b, expected = low_rank(spoilt, 3), low_rank({name: tensor[rest] for name, tensor in samples.items()}, 3)
    assert torch.equal(b.eigenvalues, expected.eigenvalues)


def test_one_finite_sample_is_too_few():
    samples = {"w": torch.randn(2, 5)}
    samples["w"][1, 0] = torch.nan
    with pytest.raises(ValueError, match="needs 2 samples, 1 of 2 are finite"):
        summarise(samples, "f")
    with pytest.raises(ValueError, match="no samples to summarise"):
        summarise({}, "f")
    with pytest.raises(ValueError, match=r"different numbers of samples, \[2, 3\]"):
        summarise({"a": torch.zeros(2, 1), "b": torch.zeros(3, 1)}, "f")


def test_a_deviation_of_zero_is_raised_to_the_floor_of_its_tensor(caplog):
    samples = {"same": torch.full((25, 4), 3.0), "zero": torch.zeros(25, 2), "live": torch.randn(25, 3)}
    samples["live"][:, 0] = 100.0
    summary = summarise(samples, "f")
    assert summary.sigma["same"].tolist() == pytest.approx([3e-3] * 4)
    assert summary.sigma["zero"].tolist() == pytest.approx([1e-8] * 2)
    assert float(summary.sigma["live"][0]) == pytest.approx(1e-3 * 100 / math.sqrt(3), rel=1e-3)
    assert summary.floored == 7
    assert summary.degenerate == ("same", "zero")
    assert "all samples agree in same, zero" in caplog.text


def test_entries_that_are_left_out_are_zero_and_do_not_count():
    groups = PermutationGroups({"heads": 2}, {}, attentions=(Attention("block.attn", "heads", 2, 2),))
    shapes = {"block.attn.qkv.bias": torch.Size([12])}
    masks = key_biases(groups, shapes)
    assert masks["block.attn.qkv.bias"].tolist() == [False] * 4 + [True] * 4 + [False] * 4
    g = torch.Generator().manual_seed(0)
    bias = 0.1 * torch.randn(5, 12, generator=g)
    wild = bias.clone()
    wild[:, 4:8] = 1000 * torch.randn(5, 4, generator=g)
    summary = summarise({"block.attn.qkv.bias": wild}, "f", masks)
    others = [0, 1, 2, 3, 8, 9, 10, 11]
    alone = summarise({"b": bias[:, others]}, "f")
    sigma = summary.sigma["block.attn.qkv.bias"]
    assert torch.equal(sigma[others], alone.sigma["b"])
    assert torch.equal(summary.mu["block.attn.qkv.bias"][others], alone.mu["b"])
    assert sigma[4:8].tolist() == summary.mu["block.attn.qkv.bias"][4:8].tolist() == [0.0] * 4
    assert summary.kept()["block.attn.qkv.bias"].tolist() == [True] * 4 + [False] * 4 + [True] * 4
    found = low_rank({"block.attn.qkv.bias": wild}, 2, masks)
    expected = low_rank({"b": bias[:, others]}, 2)
    assert torch.allclose(found.eigenvalues, expected.eigenvalues, atol=1e-7)
    assert found.factor["block.attn.qkv.bias"][:, 4:8].abs().max() == 0


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="mask of entries to be left out of 'w'"):
        summarise({"w": torch.randn(5, 3)}, "f", {"w": torch.ones(4, dtype=torch.bool)})


@pytest.mark.parametrize("rank", [0, 5])
def test_a_rank_that_the_samples_do_not_have_is_refused(rank):
    with pytest.raises(ValueError, match=f"rank {rank} of 5 finite samples; legal: 1..4"):
        low_rank({"w": torch.randn(5, 3)}, rank)


def test_another_labelling_is_refused():
    summary = summarise({"w": torch.randn(5, 3)}, "first")
    summary.require_frame("first")
    with pytest.raises(FrameError, match="weights second, summary first"):
        summary.require_frame("second")

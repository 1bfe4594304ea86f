"""The compact posterior: draws, what bytes hold, forgeries."""

from __future__ import annotations

import pytest
import torch
from compact_cases import Forged, flat, posterior_of, random_samples, rest_of, summary_of
from small_problems import bytes_of, small_with_token
from torch import Tensor, nn

from benchmark import BitReader, ConfigError, CorruptBitstream, copy_of, weights_of
from methods.hmc_rebasin.low_rank import low_rank
from methods.hmc_rebasin.posterior import CompactPosterior
from methods.hmc_rebasin.pruning import prune
from methods.hmc_rebasin.repair import Repair
from methods.hmc_rebasin.summary import Summary

ENCODINGS = ["grid", "fp16", "fp32"]


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws_of(posterior: CompactPosterior, n: int) -> list[dict[str, Tensor]]:
    return [copy_of(weights) for weights in posterior.draws(n, seeded())]


def rich_posterior(encoding: str) -> CompactPosterior:
    """With everything that one can have."""
    net = small_with_token()
    summary = summary_of(net)
    posterior = CompactPosterior.of(
        summary.mu,
        summary.sigma,
        rest_of(net),
        kept=prune(summary, 70).masks,
        factor=low_rank(random_samples(net), 3).factor,
        encoding=encoding,
        facts={"samples": 60},
    )
    statistics = {"norm.running_mean": torch.full((8,), 0.1), "norm.running_var": torch.full((8,), 0.7)}
    halves = {name: tensor / 2 for name, tensor in statistics.items()}
    gain = dict.fromkeys(("conv.weight", "conv.bias"), torch.linspace(0.5, 2, 8))
    return posterior.with_statistics(halves, statistics).with_repair(Repair(gain, {"conv.bias": torch.ones(8)}))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("build", [lambda encoding: posterior_of(encoding=encoding), rich_posterior])
def test_the_decoded_posterior_is_the_encoded_one_bit_by_bit(build, encoding):
    posterior = build(encoding)
    data = bytes_of(posterior)
    src = BitReader(data)
    again = CompactPosterior.decode(src, small_with_token(1))
    src.finish()
    assert src.codec == f"compact-{encoding}"
    assert bytes_of(again) == data
    for ours, theirs in zip(
        [posterior.mean(), *draws_of(posterior, 2)], [again.mean(), *draws_of(again, 2)], strict=True
    ):
        assert ours.keys() == theirs.keys() == weights_of(small_with_token()).keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_fp32_is_exact_and_the_others_are_near():
    net = small_with_token()
    summary = summary_of(net)
    exact = posterior_of(net, encoding="fp32").mean()
    assert all(torch.equal(exact[name], mu) for name, mu in summary.mu.items())
    half = posterior_of(net, encoding="fp16").mean()
    assert all(torch.allclose(half[name], mu, rtol=1e-3, atol=1e-7) for name, mu in summary.mu.items())
    grid = posterior_of(net).mean()
    assert all(((grid[name] - mu).abs() <= 0.08 * summary.sigma[name]).all() for name, mu in summary.mu.items())


def test_five_draws_begin_twenty_and_no_two_are_equal():
    posterior = rich_posterior("grid")
    five, twenty = draws_of(posterior, 5), draws_of(posterior, 20)
    assert all(torch.equal(a[name], b[name]) for a, b in zip(five, twenty, strict=False) for name in a)
    assert len({float(weights["conv.weight"].sum()) for weights in twenty}) == 20
    assert posterior.support is None


def test_diagonal_draws_scatter_by_sigma_without_correlation():
    net = small_with_token()
    summary = summary_of(net)
    posterior = posterior_of(net, encoding="fp32")
    stack = torch.stack([flat({name: weights[name] for name in summary.mu}) for weights in draws_of(posterior, 3000)])
    assert torch.allclose(stack.std(0), flat(summary.sigma), rtol=0.07)  # 5 standard errors of 3,000 draws
    normal = (stack - flat(summary.mu)) / flat(summary.sigma)
    assert (normal.mean(0).abs() < 5 / 3000**0.5).all()
    off = normal.T @ normal / 3000 - torch.eye(normal.shape[1])
    assert float(off.fill_diagonal_(0).square().mean().sqrt()) == pytest.approx(3000**-0.5, rel=0.1)


def test_low_rank_draws_have_the_covariance_of_the_factor_and_the_variances_of_the_summary():
    net = small_with_token()
    summary, factor = summary_of(net), low_rank(random_samples(net), 2).factor
    posterior = posterior_of(net, factor=factor, encoding="fp32")
    stack = torch.stack([flat({name: weights[name] for name in summary.mu}) for weights in draws_of(posterior, 4000)])
    b, sigma = flat(factor, 1), flat(summary.sigma)
    correlation = torch.cov(stack.T) / sigma / sigma[:, None]
    expected = (b.T @ b) / sigma / sigma[:, None]
    expected.fill_diagonal_(1)
    assert (correlation - expected).abs().max() < 0.12
    assert expected.fill_diagonal_(0).abs().max() > 0.5


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_pruned_entries_are_zero_in_the_mean_and_in_every_draw(encoding):
    posterior = rich_posterior(encoding)
    masks = prune(summary_of(small_with_token()), 70).masks
    for weights in (posterior.mean(), *draws_of(posterior, 3)):
        for name, mask in masks.items():
            assert not weights[name][~mask].any(), name
    assert all(bool((weights["conv.weight"] != 0).any()) for weights in draws_of(posterior, 1))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("percent", [0.1, 3])
def test_tensors_of_which_nothing_is_kept_come_back_as_zeros(encoding, percent):
    net = small_with_token()
    summary, factor = summary_of(net), low_rank(random_samples(net), 2).factor
    pruning = prune(summary, percent)
    posterior = CompactPosterior.of(
        summary.mu, summary.sigma, rest_of(net), kept=pruning.masks, factor=factor, encoding=encoding
    )
    again = CompactPosterior.decode(BitReader(bytes_of(posterior)), net)
    draw = draws_of(again, 1)[0]
    assert sum(int(draw[name].count_nonzero()) for name in summary.mu) == pruning.kept < 6
    assert all(torch.equal(draw[name], tensor) for name, tensor in draws_of(posterior, 1)[0].items())


def test_pruning_makes_the_bytes_fewer():
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 64), nn.ReLU(), nn.Linear(64, 3))
    summary = summary_of(net)
    sizes = [
        len(bytes_of(CompactPosterior.of(summary.mu, summary.sigma, {}, kept=prune(summary, percent).masks)))
        for percent in (100, 50, 10)
    ]
    parameters = sum(mu.numel() for mu in summary.mu.values())
    assert sizes[0] <= (10 * parameters) // 8 + 2048
    assert sizes[1] < 0.75 * sizes[0]
    assert sizes[2] < 0.5 * sizes[1] + 200


def test_entries_left_out_of_the_summary_take_a_mask_of_their_own_tensor_only():
    net = small_with_token()
    mask = torch.tensor([True, False, False])
    summary = summary_of(net, left_out={"head.bias": mask})
    posterior = CompactPosterior.of(summary.mu, summary.sigma, rest_of(net), kept=summary.kept())
    assert posterior.mean()["head.bias"].ne(0).tolist() == [False, True, True]
    assert draws_of(posterior, 1)[0]["head.bias"].ne(0).tolist() == [False, True, True]
    assert BitReader(bytes_of(posterior)).indices("kept").tolist() == [False, True, True]


def test_statistics_of_mean_and_draws_stand_where_they_belong():
    posterior = rich_posterior("grid")
    assert posterior.mean()["norm.running_var"].tolist() == pytest.approx([0.35] * 8)
    assert draws_of(posterior, 1)[0]["norm.running_var"].tolist() == pytest.approx([0.7] * 8)


def test_a_repair_changes_the_mean_network_and_no_draw():
    plain = posterior_of()
    repaired = plain.with_repair(Repair({"head.bias": torch.tensor([2.0, 1, 1])}, {"head.bias": torch.ones(3)}))
    assert torch.equal(repaired.mean()["head.bias"], plain.mean()["head.bias"] * torch.tensor([2.0, 1, 1]) + 1)
    ours, theirs = draws_of(repaired, 2), draws_of(plain, 2)
    assert all(torch.equal(a[name], b[name]) for a, b in zip(ours, theirs, strict=True) for name in a)


def test_facts_are_those_of_the_fit_and_are_not_in_the_bytes():
    posterior = rich_posterior("grid").with_facts({"kept": 3})
    assert posterior.facts() == {"samples": 60, "kept": 3}
    assert CompactPosterior.decode(BitReader(bytes_of(posterior)), small_with_token()).facts() == {}


# ---- refusals ------------------------------------------------------------------------------------------------------


def test_wrong_calls_are_refused():
    net = small_with_token()
    summary: Summary = summary_of(net)
    with pytest.raises(ConfigError, match="encoding is 'fp8'; legal: grid, fp16, fp32"):
        posterior_of(net, encoding="fp8")
    with pytest.raises(ValueError, match="need the same names and shapes"):
        CompactPosterior.of(summary.mu, {**summary.sigma, "more": torch.ones(1)}, {})
    with pytest.raises(ValueError, match="need the same names and shapes"):
        posterior_of(net, kept={"head.bias": torch.ones(2, dtype=torch.bool)})
    zero = {**summary.sigma, "head.bias": torch.zeros(3)}
    for encoding in ("grid", "fp32"):
        with pytest.raises(ValueError, match="leave entries without sigma out"):
            CompactPosterior.of(summary.mu, zero, rest_of(net), encoding=encoding)
    with pytest.raises(ValueError, match="fp16 ends at 65504"):
        CompactPosterior.of({**summary.mu, "head.bias": torch.full((3,), 1e6)}, summary.sigma, {}, encoding="fp16")


FORGERIES = [
    ("settings", "json", {"encoding": "grid"}, "not encoding, holed"),
    ("settings", "json", {"encoding": "fp8", "holed": []}, "encoding is 'fp8'"),
    ("settings", "json", {"encoding": "fp32", "holed": [99]}, "legal: numbers below 7"),
    ("settings", "json", {"encoding": "fp32", "holed": [3, 1]}, "not in order"),
    ("settings", "json", {"encoding": "fp32", "holed": []}, "another architecture"),
    ("kept", "indices", torch.ones(3, dtype=torch.bool), "mask is that of another architecture"),
    ("mu", "tensor", torch.zeros(3), "another architecture"),
    ("sigma", "tensor", torch.zeros(81), "another architecture|not positive"),
    ("draw_statistics", "tensors", {"norm.running_mean": torch.zeros(9)}, "statistics of draws are those of another"),
    ("repair.gain", "tensors", {"conv.weight": torch.zeros(3)}, "repair is that of another architecture"),
    ("repair.shift", "tensors", {"conv.bias": torch.full((8,), torch.inf)}, "repair holds numbers that are not finite"),
    ("rest", "tensors", {"norm.running_mean": torch.zeros(8)}, "miss a buffer"),
]


@pytest.mark.parametrize(("section", "write", "value", "message"), FORGERIES)
def test_forged_sections_are_refused(section, write, value, message):
    out = Forged(section, write, value)
    rich_posterior("fp32").encode(out)
    assert out.used
    with pytest.raises(CorruptBitstream, match=message):
        CompactPosterior.decode(BitReader(out.finish()), small_with_token())


def test_any_damaged_byte_is_noticed():
    data = bytes_of(posterior_of())
    for position in range(0, len(data), 37):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        with pytest.raises(CorruptBitstream):
            CompactPosterior.decode(BitReader(bytes(damaged)), small_with_token())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_bytes_of_another_architecture_are_refused(encoding):
    data = bytes_of(posterior_of(encoding=encoding))
    for other in (nn.Sequential(nn.Linear(4, 3)), nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8))):
        with pytest.raises(CorruptBitstream, match=r"another architecture|miss a buffer"):
            CompactPosterior.decode(BitReader(data), other)

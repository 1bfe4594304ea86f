"""Other posteriors beside this one: aligned first, then compared weight by weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
import torch
from experiment_cases import chains_of, digits_like, material_of, numbers, permuted_copies, point
from small_problems import history, problem_of
from torch import Tensor

from benchmark import ConfigError, NeededRun, Weights, WeightSamples, forward
from methods.hmc_rebasin.comparison import aligned_gaussian, compared_runs, moments
from methods.hmc_rebasin.experiments import run_experiments
from methods.hmc_rebasin.posterior import CompactPosterior
from methods.symmetry.discover import groups_of
from methods.symmetry.groups import PermutationGroups
from tasks.networks import deit


def gaussian_run(mu: dict[str, Tensor], sigma: dict[str, Tensor], rest: Weights) -> NeededRun:
    return NeededRun("mean_field", {}, {}, CompactPosterior.of(mu, sigma, rest, encoding="fp32"))


def test_a_permuted_copy_of_the_row_itself_agrees_with_it(tmp_path):
    problem = digits_like()
    _, copies = permuted_copies(problem, 24)
    material = material_of(tmp_path / "a", problem, chains_of(problem, copies))
    own = material.built.summary
    moved = groups_of(problem.network).random(torch.Generator().manual_seed(9))
    mu, sigma = (material.groups.permuted(side, moved) for side in (own.mu, own.sigma))
    runs = [gaussian_run(mu, sigma, {}), NeededRun("hmc_unaligned", {}, {}, gaussian_run(mu, sigma, {}).posterior)]
    compared = material_of(tmp_path / "b", problem, material.run, [*runs, runs[0]], experiments=("transpositions",))
    facts = run_experiments(compared)
    assert [name for name in facts if name.endswith("_w2")] == [
        "compare_mean_field_w2",
        "compare_hmc_unaligned_w2",
        "compare_mean_field_2_w2",
    ]
    assert "not_lag1" in facts
    assert facts["compare_mean_field_mu_pearson"] > 0.999
    assert facts["compare_mean_field_kl"] < 0.02  # sigma of 100 draws
    assert facts["compare_mean_field_log_sigma_pearson"] > 0.8
    compared.ctx.close()
    records = history(tmp_path / "b", "compared")
    assert [(record["run"], record["tensor"]) for record in records] == [
        (run, name) for run in ("mean_field", "hmc_unaligned", "mean_field_2") for name in own.mu
    ]
    for run in ("mean_field", "hmc_unaligned", "mean_field_2"):
        assert len(numbers(tmp_path / "b", f"compare-{run}")) == sum(tensor.numel() for tensor in own.mu.values())


def test_members_are_aligned_among_themselves_and_then_to_the_row(tmp_path):
    problem = digits_like()
    _, copies = permuted_copies(problem, 24)
    _, others = permuted_copies(problem, 21, seed=3)
    others = others[1:]  # no member has the labels of the row
    material = material_of(tmp_path, problem, chains_of(problem, copies))
    found = aligned_gaussian(material, WeightSamples(others))
    own = material.built.summary
    assert found.frame_id == own.frame_id
    for name, mu in own.mu.items():
        assert torch.allclose(found.mu[name], mu, atol=0.04)
        assert float(found.sigma[name].mean()) == pytest.approx(0.02, rel=0.25)


def test_members_of_transformers_are_rotated_into_the_frame_of_the_row(tmp_path):
    """A rotation inside of heads changes no function, but weights; it is undone before sigma is taken."""
    shape = (1, 8, 8)

    def make(seed: int) -> torch.nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return deit.build("deit-micro", shape, 3)

    problem = problem_of(make(0), make, shape=shape)
    _, copies = permuted_copies(problem, 2, noise=0.002)
    _, others = permuted_copies(problem, 3, noise=0.002, seed=4)
    material = material_of(tmp_path, problem, chains_of(problem, copies), restarts=2)
    members = [rotated(material.groups, other) for other in others[1:]]
    inputs = problem.val.inputs
    with torch.no_grad():
        for member, other in zip(members, others[1:], strict=True):
            assert torch.allclose(
                forward(problem.network, member, inputs), forward(problem.network, other, inputs), atol=1e-4
            )
    found = aligned_gaussian(material, WeightSamples(members))
    for name, mu in material.built.summary.mu.items():
        if "attn" in name and name.endswith("weight"):
            assert torch.nn.functional.cosine_similarity(found.mu[name].flatten(), mu.flatten(), dim=0) > 0.97


def rotated(groups: PermutationGroups, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values and the projection behind them turned by one random rotation per head."""
    out = dict(weights)
    for attention in groups.attentions:
        heads, width = attention.heads, attention.width
        generator = torch.Generator().manual_seed(heads)
        turn = torch.linalg.qr(torch.randn(heads, width, width, generator=generator))[0]
        for name in (attention.qkv, attention.qkv_bias):
            parts = weights[name].view(3, heads, width, -1).clone()
            parts[2] = turn @ parts[2]
            out[name] = parts.view_as(weights[name])
        proj = weights[attention.proj]
        out[attention.proj] = torch.einsum("dhw,hvw->dhv", proj.view(-1, heads, width), turn).reshape(proj.shape)
    return out


def test_a_run_without_a_spread_is_refused_before_anything_is_computed(tmp_path):
    problem = digits_like()
    _, copies = permuted_copies(problem, 2)
    material = material_of(tmp_path, problem, chains_of(problem, copies), [point(problem)])
    with pytest.raises(ConfigError, match=r"compare names 'map', .* without a spread"):
        run_experiments(material)
    assert not (tmp_path / "figures").exists()
    assert compared_runs(material_of(tmp_path, problem, chains_of(problem, copies))) == []


def test_moments_of_draws_are_those_of_all_at_once_and_constants_have_no_deviation():
    class Draws(CompactPosterior):
        """Without a mean of its own; each draw overwrites the one before."""

        def __init__(self) -> None:
            pass

        def mean(self) -> None:
            return None

        def draws(self, n: int, generator: torch.Generator) -> Iterator[Weights]:
            memory = torch.empty(5)
            for _ in range(n):
                yield {"w": memory.normal_(1000, 0.1, generator=generator), "fixed": torch.full((2,), 0.3)}

    mean, sigma = moments(Draws(), ["w", "fixed"], torch.Generator().manual_seed(0), 40)
    generator = torch.Generator().manual_seed(0)
    every = torch.stack([draw["w"].clone() for draw in Draws().draws(40, generator)]).double()
    assert torch.allclose(mean["w"], every.mean(0).float(), rtol=1e-7)
    assert torch.allclose(sigma["w"], every.std(0).float(), rtol=1e-5)
    assert torch.equal(sigma["fixed"], torch.zeros(2))

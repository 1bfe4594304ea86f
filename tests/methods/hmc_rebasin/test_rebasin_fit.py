"""Whole fits of `hmc_rebasin` and its controls, from the samples of a run to rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_problems import bytes_of, problem_of, split
from torch import Tensor, nn

from benchmark import BitReader, ConfigError, Context, Need, NeededRun, Problem, weights_of
from methods.hmc.posterior import ChainSamples
from methods.hmc_rebasin import HmcPriorControl, HmcRebasin, HmcUnaligned
from methods.hmc_rebasin.config import AlignedConfig, RebasinConfig, SummaryConfig
from methods.hmc_rebasin.posterior import CompactPosterior
from methods.map.evaluation import evaluate_draws
from methods.symmetry.discover import groups_of
from methods.symmetry.errors import UnsupportedArchitecture

SAMPLES, NOISE = 24, 0.05


def perceptron(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3))


def normed(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
        )


def trained(build: Callable[[int], nn.Module]) -> Problem:
    """A problem whose network has learned it."""
    made = problem_of(build(0), build, n=200, val=100)
    optimiser = torch.optim.Adam(made.network.parameters(), lr=0.02)
    made.network.train()
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(made.network(made.train.inputs), made.train.labels).backward()
        optimiser.step()
    made.network.eval()
    return made


def samples_around(made: Problem, chains: int = 2, noise: float = NOISE, count: int = SAMPLES) -> ChainSamples:
    """The network's weights with noise, every sample labelled at random: a posterior that permutations hide."""
    generator = torch.Generator().manual_seed(1)
    groups, own = groups_of(made.network), weights_of(made.network)
    names = [name for name, _ in made.network.named_parameters()]
    rows: list[Tensor] = []
    buffers: dict[str, list[Tensor]] = {name: [] for name in own if name not in names}
    for _ in range(count):
        noisy = {
            name: tensor + noise * torch.randn(tensor.shape, generator=generator) if name in names else tensor
            for name, tensor in own.items()
        }
        relabelled = groups.permuted(noisy, groups.random(generator))
        rows.append(torch.cat([relabelled[name].flatten() for name in names]))
        for name, kept in buffers.items():
            kept.append(relabelled[name])
    shape = (chains, count // chains)
    return ChainSamples(
        torch.stack(rows).view(*shape, -1),
        {name: own[name].shape for name in names},
        {name: torch.stack(kept).unflatten(0, shape) for name, kept in buffers.items()},
        {},
    )


def needed(run: ChainSamples, **facts: Any) -> NeededRun:
    told = {"sampler": "hmc", "prior_std": 1.0, "posterior": "bayes", "converged": True, **facts}
    return NeededRun("hmc", {"sampler": "hmc", "prior_std": 1.0}, told, run)


def control(rms: float = 0.2) -> NeededRun:
    return NeededRun("hmc_prior_control", {}, {"rms_mean": rms}, needed_posterior())


def needed_posterior() -> CompactPosterior:
    tensor = {"w": torch.ones(2)}
    return CompactPosterior.of(tensor, tensor, {}, encoding="fp32")


def context(folder: Path, *runs: NeededRun) -> Context:
    return Context(folder, ("made_up", "small", "hmc_rebasin", 0), needed=runs)


def rebasin(folder: Path, made: Problem, run: ChainSamples, facts: dict[str, Any] | None = None, **given: Any) -> Any:
    config = RebasinConfig(**{"experiments": (), **given})
    return HmcRebasin().fit(made, context(folder, needed(run, **(facts or {})), control()), config)


def accuracy(made: Problem, posterior: CompactPosterior) -> float:
    mean = posterior.mean()
    return evaluate_draws(made.network, [mean], split(300, 7)).accuracy


@pytest.fixture(scope="module")
def learned() -> Problem:
    return trained(perceptron)


def test_alignment_brings_back_what_averaging_destroys(tmp_path, learned):
    run = samples_around(learned)
    aligned = rebasin(tmp_path / "r", learned, run)
    unaligned = HmcUnaligned().fit(learned, context(tmp_path / "d", needed(run)), SummaryConfig())
    own = evaluate_draws(learned.network, [weights_of(learned.network)], split(300, 7)).accuracy
    assert own > 0.7
    assert accuracy(learned, aligned) > own - 0.03
    assert accuracy(learned, unaligned) < own - 0.2
    assert aligned.facts()["mean_sigma"] < 0.5 * unaligned.facts()["mean_sigma"]


def test_sigma_of_aligned_samples_is_the_noise_that_was_planted(tmp_path, learned):
    facts = rebasin(tmp_path, learned, samples_around(learned)).facts()
    assert facts["mean_sigma"] == pytest.approx(NOISE, rel=0.1)
    assert facts["samples"] == SAMPLES
    assert facts["spread"] <= facts["spread_first"]
    assert 0.7 < facts["transpositions"] <= 1.3, "samples were labelled by chance"
    assert facts["signal_ratio"] == pytest.approx(facts["rms_mean"] / 0.2)
    assert {"val_accuracy_mean", "val_nll_draws"} <= facts.keys()


def test_a_network_with_batch_norm_gets_statistics_of_its_own(tmp_path):
    made = trained(normed)
    posterior = rebasin(tmp_path, made, samples_around(made))
    facts = posterior.facts()
    assert accuracy(made, posterior) > 0.7
    assert facts["val_nll_mean_without_reset"] < facts["val_nll_mean"] + 0.1, "the samples' own, relabelled with them"
    unaligned = HmcUnaligned().fit(made, context(tmp_path / "d", needed(samples_around(made))), SummaryConfig())
    assert unaligned.facts()["val_nll_mean_without_reset"] > facts["val_nll_mean_without_reset"]


def test_the_prior_control_has_seen_no_data_and_does_not_compete(tmp_path, learned):
    run = samples_around(learned)
    posterior = HmcPriorControl().fit(learned, context(tmp_path, needed(run)), AlignedConfig())
    facts = posterior.facts()
    assert facts["ranked"] is False
    assert "control" in facts["marks"]
    assert facts["mean_sigma"] == pytest.approx(1.0, rel=0.1), "the prior's own deviation"
    assert facts["rms_mean"] > 1.2 / SAMPLES**0.5, "alignment makes structure of nothing"
    assert accuracy(learned, posterior) < 0.7


def test_the_prior_control_is_as_hot_as_the_samples_and_has_no_faults_of_theirs(tmp_path, learned):
    run = needed(samples_around(learned), marks="tempered, not converged", converged=False)
    cold = NeededRun("hmc", {**run.config, "temperature": 0.01}, run.facts, run.posterior)
    facts = HmcPriorControl().fit(learned, context(tmp_path, cold), AlignedConfig()).facts()
    assert facts["mean_sigma"] == pytest.approx(0.1, rel=0.1)
    assert facts["marks"] == "control"
    assert "converged" not in facts


def test_samples_with_numbers_that_are_not_finite_are_dropped_before_anything_is_aligned(tmp_path, learned):
    run = samples_around(learned)
    run.states[0, 0, 5] = float("nan")
    facts = rebasin(tmp_path, learned, run).facts()
    assert (facts["dropped_samples"], facts["samples"]) == (1, SAMPLES - 1)


def test_matching_weighs_tensors_by_the_deviations_of_a_prior_that_is_a_table(tmp_path, learned):
    names = [name for name, _ in learned.network.named_parameters()]
    run = needed(samples_around(learned))
    table = {name: 10.0 if name.startswith("1") else 0.01 for name in names}
    tabled = NeededRun("hmc", {"prior_std": table}, run.facts, run.posterior)
    spreads = [
        HmcRebasin()
        .fit(learned, context(tmp_path / str(n), one, control()), RebasinConfig(experiments=()))
        .facts()["spread"]
        for n, one in enumerate((run, tabled))
    ]
    assert spreads[0] != pytest.approx(spreads[1], rel=0.1), "in units of the table"


def test_repair_of_a_network_with_batch_norm_is_refused_at_once(tmp_path):
    made = trained(normed)
    with pytest.raises(ConfigError, match="Set repair: false"):
        rebasin(tmp_path, made, samples_around(made), repair=True)


def test_the_rank_is_told_as_it_is_used(tmp_path, learned):
    facts = rebasin(tmp_path, learned, samples_around(learned), rank=10_000).facts()
    assert facts["rank"] == SAMPLES - 1
    assert facts["rank_explains"] == pytest.approx(1.0)


def test_two_spellings_of_a_sampling_are_one():
    spelled = RebasinConfig(sampling={"preset": "recommended", "momentum": 0.9})
    assert spelled.identity() == RebasinConfig().identity()
    assert RebasinConfig(sampling={"keep": 9, "momentum": 0.9}).sampling == {"keep": 9}


def test_the_prior_control_takes_a_table_of_deviations(tmp_path, learned):
    names = [name for name, _ in learned.network.named_parameters()]
    run = needed(samples_around(learned))
    table = dict.fromkeys(names, 0.1)
    tabled = NeededRun("hmc", {"sampler": "hmc", "prior_std": table}, run.facts, run.posterior)
    facts = HmcPriorControl().fit(learned, context(tmp_path, tabled), AlignedConfig()).facts()
    assert facts["mean_sigma"] == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize(
    ("method", "config"),
    [
        (HmcUnaligned(), SummaryConfig(rank=3)),
        (HmcPriorControl(), AlignedConfig(encoding="fp16")),
        (HmcRebasin(), RebasinConfig(experiments=(), prune=30)),
        (HmcRebasin(), RebasinConfig(experiments=(), repair=True, matching="activation", reference="first")),
    ],
    ids=["unaligned", "prior", "pruned", "repaired"],
)
def test_bytes_give_back_the_posterior(tmp_path, learned, method, config):
    posterior = method.fit(learned, context(tmp_path, needed(samples_around(learned)), control()), config)
    data = bytes_of(posterior)
    decoded = method.posterior_type().decode(BitReader(data), perceptron(5))
    assert bytes_of(decoded) == data
    one, other = posterior.mean(), decoded.mean()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_pruning_leaves_the_share_that_was_asked_for(tmp_path, learned):
    posterior = rebasin(tmp_path, learned, samples_around(learned), prune=25)
    mean = posterior.mean()
    total = sum(value.numel() for value in learned.network.parameters())
    assert sum(int(mean[name].count_nonzero()) for name, _ in learned.network.named_parameters()) == total // 4
    assert posterior.facts()["pruned"] == total - total // 4


def test_what_the_samples_lack_is_told_by_their_summary(tmp_path, learned):
    run = samples_around(learned)
    facts = rebasin(tmp_path, learned, run, {"marks": "not converged", "converged": False}).facts()
    assert facts["marks"] == "not converged"
    assert facts["converged"] is False


def test_the_same_seeds_give_the_same_bytes(tmp_path, learned):
    run = samples_around(learned)
    one, other = (bytes_of(rebasin(tmp_path / str(n), learned, run)) for n in range(2))
    assert one == other


def test_a_network_without_known_groups_is_skipped_with_what_to_do(tmp_path):
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(36, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.second(self.first(x.flatten(1)).relu())
            return out

    made = problem_of(Odd(), lambda seed: Odd())
    own = dict(made.network.named_parameters())
    states = torch.randn(1, 3, sum(value.numel() for value in own.values()))
    run = ChainSamples(states, {name: value.shape for name, value in own.items()}, {}, {})
    with pytest.raises(UnsupportedArchitecture, match=r"permutation_groups\(\)"):
        rebasin(tmp_path, made, run)


def test_a_single_sample_has_no_spread(tmp_path, learned):
    run = samples_around(learned, chains=1, count=1)
    with pytest.raises(ConfigError, match="at least 2 samples"):
        rebasin(tmp_path, learned, run)


def test_samples_must_be_those_of_a_chain(tmp_path, learned):
    odd = NeededRun("map", {}, {}, needed_posterior())
    with pytest.raises(ConfigError, match="a run of 'map' was handed over"):
        HmcUnaligned().fit(learned, context(tmp_path, odd), SummaryConfig())


def test_controls_stand_beside_every_row_with_the_same_samples_and_summary():
    config = RebasinConfig(sampling={"keep": 9}, rank=2, matching="activation", experiments=())
    assert HmcRebasin().companions(config) == (
        Need("hmc", {"keep": 9}),
        Need("hmc_unaligned", {"sampling": {"keep": 9}, "rank": 2}),
        Need("hmc_prior_control", {"sampling": {"keep": 9}, "rank": 2, "matching": "activation"}),
    )
    assert HmcRebasin().needs(config)[:2] == (HmcRebasin().companions(config)[0], HmcRebasin().companions(config)[2])


def test_titles_say_what_was_sampled_with():
    titles = [
        method.title(method.Config(), (Need("hmc", {"sampler": "sghmc"}),))
        for method in (HmcRebasin(), HmcUnaligned(), HmcPriorControl())
    ]
    assert titles == ["sghmc_rebasin", "sghmc_unaligned", "sghmc_prior_control"]
    assert HmcRebasin().title(RebasinConfig(), (Need("hmc", {"sampler": "hmc"}),)) == "hmc_rebasin"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"sampling": {"sampler": "gibbs"}}, "sampler"),
        ({"prune": 0}, "greater than 0"),
        ({"experiments": ("barriers", "barriers")}, "lists one twice"),
        ({"matching": "names"}, "matching"),
        ({"rank": -1}, "rank"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, says):
    with pytest.raises(ValueError, match=says):
        RebasinConfig(**given)

"""Real images from end to end: chains on digits, their compact summary, and what neither alignment nor data give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from small_problems import bytes_of

from benchmark import BitReader, Context, NeededRun, Posterior, Problem, Split
from benchmark.predict import predict
from methods.hmc import Hmc
from methods.hmc.config import SamplingConfig
from methods.hmc.posterior import ChainSamples
from methods.hmc_rebasin import HmcPriorControl, HmcRebasin, HmcUnaligned
from methods.hmc_rebasin.config import AlignedConfig, RebasinConfig, SummaryConfig
from tasks.digits import Digits
from tasks.networks.catalogue import Mlp

SHORT = {"burn_in": 40, "samples": 30, "keep": 15, "max_leapfrog": 60}


@dataclass(frozen=True)
class Rows:
    """The rows of one sampling, decoded from their bytes; accuracy and NLL on test data."""

    problem: Problem
    test: Split
    posteriors: Mapping[str, Posterior]
    facts: Mapping[str, Mapping[str, Any]]
    sizes: Mapping[str, int]

    def scores(self, name: str) -> tuple[float, float]:
        made = predict(self.problem.network, self.posteriors[name], self.test, 100, torch.Generator().manual_seed(0))
        labels = self.test.labels
        accuracy = (made.log_probs.argmax(-1) == labels).double().mean()
        return float(accuracy), -float(made.log_probs.gather(1, labels[:, None]).double().mean())


def rows(folder: Path, **given: Any) -> Rows:
    task, settings = Digits(), Digits.Config()
    info = task.info(settings)
    train, val, test = (task.load(settings, name) for name in ("train", "val", "test"))

    def build(seed: int) -> torch.nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return Mlp().build("mlp-16-tanh", info.input_shape, info.n_classes)

    problem = Problem(build(0), build, train, val, info.input_shape, info.n_classes, 100)
    posteriors: dict[str, Posterior] = {}
    facts: dict[str, Mapping[str, Any]] = {}
    sizes: dict[str, int] = {}

    def fit(method: Any, config: Any, *needed: NeededRun) -> NeededRun:
        ctx = Context(folder / method.name, ("digits", "mlp-16-tanh", method.name, 0), needed=needed)
        fitted = method.fit(problem, ctx, config)
        data = bytes_of(fitted)
        posteriors[method.name] = method.posterior_type().decode(BitReader(data), build(1))
        facts[method.name], sizes[method.name] = fitted.facts(), len(data)
        return NeededRun(method.name, config.identity(), fitted.facts(), posteriors[method.name])

    samples = fit(Hmc(), SamplingConfig(**given))
    fit(HmcUnaligned(), SummaryConfig(), samples)
    control = fit(HmcPriorControl(), AlignedConfig(), samples)
    fit(HmcRebasin(), RebasinConfig(experiments=()), samples, control)
    return Rows(problem, test, posteriors, facts, sizes)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    return rows(tmp_path_factory.mktemp("digits"), **SHORT)


def test_averaged_samples_are_accurate_and_alignment_keeps_what_averaging_weights_loses(short: Rows) -> None:
    accuracy, nll = short.scores("hmc")
    assert accuracy > 0.94
    assert nll < 0.25
    assert short.facts["hmc_rebasin"]["val_accuracy_mean"] > short.facts["hmc_unaligned"]["val_accuracy_mean"] + 0.1
    assert short.scores("hmc_rebasin")[1] < short.scores("hmc_unaligned")[1] - 0.3
    assert short.scores("hmc_prior_control")[0] < 0.3
    assert short.facts["hmc_rebasin"]["signal_ratio"] > 1.3


def test_the_summary_takes_a_few_bits_per_weight_where_the_samples_take_thousands(short: Rows) -> None:
    weights = 64 * 16 + 16 + 16 * 10 + 10
    assert short.sizes["hmc_rebasin"] <= 10 * weights / 8 + 2048
    assert short.sizes["hmc"] >= 2 * weights * 60
    assert isinstance(short.posteriors["hmc"], ChainSamples)


@pytest.mark.benchmarks
def test_the_recommended_chains_on_digits_converge_and_reach_the_reference_behaviour(tmp_path: Path) -> None:
    found = rows(tmp_path)
    facts = found.facts["hmc"]
    assert facts["rhat"] <= 1.02
    assert facts["converged"]
    accuracy, nll = found.scores("hmc")
    assert accuracy >= 0.95
    assert nll <= 0.25
    assert found.facts["hmc_rebasin"]["val_accuracy_mean"] >= 0.86
    assert found.scores("hmc_unaligned")[0] <= 0.2
    assert 0.15 <= found.facts["hmc_prior_control"]["rms_mean"] <= 0.26

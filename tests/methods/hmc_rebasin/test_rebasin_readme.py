"""What the method's README says works."""

from __future__ import annotations

import re
from pathlib import Path

import torch
import yaml
from torch import nn

import methods.hmc_rebasin as package
from benchmark import weights_of
from methods.hmc_rebasin.config import RebasinConfig
from methods.hmc_rebasin.experiments import EXPERIMENTS
from methods.hmc_rebasin.presets import PRESETS

README = (Path(package.__file__).parent / "README.md").read_text(encoding="utf-8")


def perceptron(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def first_column(header: str) -> set[str]:
    table = README.partition(f"| {header} |")[2].partition("\n\n")[0]
    return {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def test_matching_two_networks_runs_as_shown_and_keeps_the_function():
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    network, other = perceptron(0), perceptron(1)
    names = {"network": network, "weights_a": weights_of(network), "weights_b": weights_of(other)}
    exec(compile(code, "README.md", "exec"), names)
    inputs = torch.randn(5, 1, 2, 2)
    torch.testing.assert_close(torch.func.functional_call(network, names["like_a"], inputs), other(inputs))
    far, near = (
        sum(float((names["weights_a"][name] - weights[name]).square().sum()) for name in names["weights_a"])
        for weights in (names["weights_b"], names["like_a"])
    )
    assert near < far


def test_every_experiment_and_preset_that_is_named_exists():
    assert first_column("experiment") == set(EXPERIMENTS)
    assert first_column("preset") == {"recommended", *PRESETS}
    assert first_column("row") == {"hmc", "hmc_rebasin", "hmc_unaligned", "hmc_prior_control"}


def test_the_settings_of_a_comparison_are_legal():
    (text,) = re.findall(r"`compare: (\[.*?\])`", README)
    assert [run.method for run in RebasinConfig(compare=yaml.safe_load(text)).compare] == [
        "deep_ensemble",
        "mean_field",
    ]

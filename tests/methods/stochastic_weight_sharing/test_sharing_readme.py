"""What the method's README says works."""

from __future__ import annotations

import re
from pathlib import Path

import torch
import yaml

import methods.stochastic_weight_sharing as package
from benchmark.registry import METHODS
from methods.stochastic_weight_sharing.config import WeightSharingConfig
from methods.stochastic_weight_sharing.presets import PRESETS

README = (Path(package.__file__).parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_sharing_alone_runs_as_shown():
    generator = torch.Generator().manual_seed(0)
    mu = {name: torch.randn(40, 30, generator=generator) for name in ("first", "second")}
    sigma = {name: 0.1 + 0.1 * torch.rand(40, 30, generator=generator) for name in mu}
    (code,) = blocks("python")
    names = {"mu": mu, "sigma": sigma}
    exec(compile(code, "README.md", "exec"), names)
    assert names["shared"].labels.shape == (2400,)
    assert names["a"].shape == names["variance"].shape == (64,)


def test_the_rows_to_compare_are_legal_settings():
    (text,) = blocks("yaml")
    for entry in yaml.safe_load(text)["methods"]:
        ((name, given),) = entry.items()
        METHODS.get(name).Config(**given)


def test_every_preset_and_every_named_setting_exists():
    assert {"recommended", *PRESETS} == set(
        re.findall(r"^\| `(recommended|paper|smoke)` \|", README, flags=re.MULTILINE)
    )
    for field in ("components", "cluster", "merge", "sampling", "scope", "outliers", "grid", "source", "kl_weight"):
        assert f"`{field}`" in README
        assert field in WeightSharingConfig.model_fields

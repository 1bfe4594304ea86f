"""What the method's README says works."""

from __future__ import annotations

import re
from pathlib import Path

import torch
import yaml

import methods.probabilistic_weight_fixing as package
from benchmark.registry import METHODS
from methods.probabilistic_weight_fixing.config import WeightFixingConfig
from methods.probabilistic_weight_fixing.presets import PRESETS

README = (Path(package.__file__).parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_clustering_alone_runs_as_shown():
    mu = 0.1 * torch.randn(2000, generator=torch.Generator().manual_seed(0))
    (code,) = blocks("python")
    names = {"mu": mu}
    exec(compile(code, "README.md", "exec"), names)
    assert int(names["weights"].fixed.sum()) == names["record"].count == 1800


def test_the_studies_hold_legal_settings():
    entries = [entry for text in blocks("yaml") for entry in yaml.safe_load(text)["methods"]]
    assert len(entries) == 3
    for entry in entries:
        ((name, given),) = entry.items()
        for b in given["b"] if isinstance(given.get("b"), list) else [None]:
            METHODS.get(name).Config(**{**given, **({} if b is None else {"b": b})})


def test_every_preset_and_setting_that_is_named_exists():
    table = README.partition("| setting |")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named
    assert named <= WeightFixingConfig.model_fields.keys()
    presets = README.partition("| preset |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", presets, flags=re.MULTILINE)) == {"recommended", *PRESETS}

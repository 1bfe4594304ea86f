"""What the method's README says works."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import methods.weight_fixing as package
from benchmark.registry import METHODS
from methods.weight_fixing.config import WfnConfig
from methods.weight_fixing.presets import PRESETS

README = (Path(package.__file__).parent / "README.md").read_text(encoding="utf-8")


def test_the_study_holds_legal_settings():
    (text,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    (entry,) = yaml.safe_load(text)["methods"]
    deltas = entry["wfn"]["delta"]
    assert [METHODS.get("wfn").Config(delta=delta).delta for delta in deltas] == [0.0075, 0.01, 0.015]


def test_every_preset_and_setting_that_is_named_exists():
    table = README.partition("| setting |")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named
    assert named <= WfnConfig.model_fields.keys()
    presets = README.partition("| preset |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", presets, flags=re.MULTILINE)) == {"recommended", *PRESETS}

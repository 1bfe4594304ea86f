"""What the method's README says exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import methods.hmc as package
from methods.hmc.config import Sampler, SamplingConfig
from methods.hmc.presets import PRESETS

README = (Path(package.__file__).parent / "README.md").read_text(encoding="utf-8")


def first_column(header: str) -> set[str]:
    table = README.partition(f"| {header} |")[2].partition("\n\n")[0]
    return {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def test_every_sampler_preset_and_setting_that_is_named_exists():
    assert first_column("sampler") == set(get_args(Sampler))
    assert first_column("preset") == {"recommended", *PRESETS}
    settings = first_column("setting")
    assert len(settings) > 10
    assert settings <= SamplingConfig.model_fields.keys()

"""`bnnbench list NAME`: what a method or a task can be told."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from benchmark.cli.list_ import command
from benchmark.errors import ConfigError
from benchmark.registry import METHODS, TASKS


def listed(*arguments: str) -> str:
    done = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


@pytest.mark.parametrize("name", [*METHODS.names(), *TASKS.names()])
def test_every_plugin_can_be_described_and_its_presets_are_settings_of_it(name):
    found = json.loads(listed(name, "--json"))
    registry = METHODS if name in METHODS.names() else TASKS
    fields = set(registry.get(name).Config.model_fields) - {"preset"}
    assert [setting["name"] for setting in found["settings"]] == [
        field for field in registry.get(name).Config.model_fields if field != "preset"
    ]
    assert found["summary"]
    assert all(setting["description"] for setting in found["settings"])
    assert all(set(values) <= fields for values in found["presets"].values())


def test_settings_stand_with_type_default_and_meaning_and_presets_with_their_values():
    text = listed("mean_field")
    assert "  estimator: shared | exemplar | flipout | local = shared\n" in text
    assert "  clip_norm: float | null = null\n" in text
    assert "      examples per optimiser step\n" in text
    words = " ".join(text.split())
    assert "| {kind: uniform_log, low: float = -6.0, high: float = -5.0} |" in words
    assert "| {include: [str, ..], exclude: [str, ..] = []} = weights" in words
    assert "  posthoc: epochs: 0, sigma_rescale: false\n" in text


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'mean_feild' is unknown\. Did you mean 'mean_field'"):
        CliRunner().invoke(command, ["mean_feild"], catch_exceptions=False)

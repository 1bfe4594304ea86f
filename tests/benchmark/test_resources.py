"""What runs ask of a cluster: method, task and study, each over the one before."""

from __future__ import annotations

import json

import pytest

from benchmark.cli.main import main
from benchmark.errors import ConfigError
from benchmark.plan import plan
from benchmark.resource_classes import resources_of
from benchmark.resources import Resources
from benchmark.study import study_from_flags

FLAGS = {"tasks": ["digits"], "networks": ["mlp-8", "mlp-16"], "methods": ["map", "map_temperature"], "seeds": 2}


def asked(resources: object) -> dict[tuple[str, str, int], Resources]:
    study = study_from_flags({**FLAGS, "resources": resources})
    specs = plan(study).specs
    found = resources_of(study, specs.values())
    return {(spec.network.name, spec.method.name, spec.seed): found[run] for run, spec in specs.items()}


def test_a_level_wins_over_those_below_where_it_says_something():
    assert Resources(gpus=2).over(Resources(gpus=1, cpus=3)) == Resources(gpus=2, cpus=3)
    assert Resources().over(Resources(minutes=5)) == Resources(minutes=5)
    assert Resources(gpus=0).over(Resources(gpus=1)) == Resources(gpus=0)


def test_of_the_entries_that_match_the_last_that_says_something_wins():
    found = asked([{"gpus": 1, "cpus": 4}, {"method": "map_*", "gpus": 0}, {"network": "mlp-16", "seed": 1, "cpus": 2}])
    assert found["mlp-8", "map", 1] == Resources(gpus=1, cpus=4)
    assert found["mlp-8", "map_temperature", 0] == Resources(gpus=0, cpus=4)
    assert found["mlp-16", "map_temperature", 1] == Resources(gpus=0, cpus=2)


def test_resources_do_not_change_which_runs_there_are():
    plain, with_gpus = (plan(study_from_flags({**FLAGS, "resources": each})).specs for each in ([], {"gpus": 4}))
    assert list(plain) == list(with_gpus)


def test_classes_are_counted_in_the_plan(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(
        "tasks: digits\nnetworks: mlp-8\nmethods: [map, map_temperature]\nseeds: 3\n"
        "resources: [{gpus: 1, memory_gib: 8, minutes: 90}, {method: map_temperature, gpus: 0}]\n"
    )
    for arguments in (["plan", "study.yaml"], ["plan", "study.yaml", "--json"]):
        with pytest.raises(SystemExit):
            main(arguments)
        shown = capsys.readouterr().out
        if "--json" in arguments:
            runs = json.loads(shown)["runs"]
            assert {run["resources"]["gpus"] for run in runs} == {0, 1}
        else:
            assert "3 ask for 1 GPU, 8 GiB, 90 min each." in shown
            assert "3 ask for 0 GPUs, 8 GiB, 90 min each." in shown


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"gpu": 1}, "Did you mean 'gpus'?"),
        ({"minutes": 0}, "greater than or equal to 1"),
        ([3], "'resources' is what runs ask for"),
        ({"memory_gib": "much"}, "memory_gib"),
    ],
)
def test_wrong_requests_are_refused(given, told):
    with pytest.raises(ConfigError) as raised:
        study_from_flags({**FLAGS, "resources": given})
    assert told in str(raised.value)


def test_a_request_that_matches_no_run_is_refused_with_the_nearest_method():
    study = study_from_flags({**FLAGS, "resources": [{"method": "mapp", "minutes": 5}]})
    with pytest.raises(ConfigError, match=r"matches no run.*Did you mean 'map'"):
        plan(study)

"""What a study says about attacks: spelling, defaults, labels, mistakes, and what they do to a run's identity."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmark.attacks.config import Attack
from benchmark.errors import ConfigError
from benchmark.identity import Part, Protocol, RunSpec, shown_protocol
from benchmark.plan import plan
from benchmark.study import read_study, study_from_flags

STUDY = "tasks: {task}\nnetworks: mlp-8\nmethods: map\nprotocol:\n  draws: 3\n  attacks: {attacks}\n"


def read(tmp_path: Path, attacks: str, task: str = "digits") -> Any:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(task=task, attacks=attacks), encoding="utf-8")
    return read_study(str(path))


def refused(tmp_path: Path, attacks: str) -> str:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, attacks)
    return str(raised.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("spelling", "label"),
    [
        ("fgsm", "fgsm-linf-0.0627"),
        ({"kind": "fgsm", "epsilon": 0.1}, "fgsm-linf-0.1"),
        ("pgd", "pgd-linf-0.0627x20"),
        ({"kind": "pgd", "adaptive": True}, "pgd-linf-0.0627x20-adaptive"),
        ({"kind": "bim", "norm": "l2", "epsilon": 8 / 255, "steps": 40}, "bim-l2-0.0314x40"),
        ({"kind": "mim", "examples": 3}, "mim-linf-0.0627x20"),
    ],
)
def test_a_label_states_kind_norm_and_strength(spelling, label):
    assert Attack.model_validate(spelling).label == label


def test_the_defaults_are_sixteen_and_one_of_255_and_one_whole_step_for_fgsm():
    pgd, fgsm = Attack.model_validate("pgd"), Attack.model_validate({"kind": "fgsm", "epsilon": 0.2})
    assert (pgd.epsilon, pgd.step_size, pgd.steps, pgd.norm, pgd.adaptive, pgd.examples) == (
        16 / 255, 1 / 255, 20, "linf", False, 512,
    )  # fmt: skip
    assert (fgsm.step_size, fgsm.steps) == (0.2, 1)


def test_two_spellings_of_one_attack_have_one_identity_which_comes_back(tmp_path):
    short, long = (
        read(tmp_path, "fgsm").protocol,
        read(tmp_path, "[{kind: fgsm, epsilon: 0.06274509803921569}]").protocol,
    )
    assert short.identity() == long.identity()
    assert Protocol(**json.loads(json.dumps(short.identity()))) == short


@pytest.mark.parametrize(
    ("attacks", "words"),
    [
        ("[pgdd]", "study.yaml:6: attacks.0 = 'pgdd': input should be 'fgsm', 'bim', 'pgd' or 'mim'. Did you mean"),
        ("\n    - fgsm\n    - {kind: pgd, epsilon: -1}", "study.yaml:8: attacks.1.epsilon = -1: input should be"),
        ("[{kind: fgsm, epsilon: -1}]", "study.yaml:6: attacks.0.epsilon = -1: input should be greater than 0"),
        ("[{kind: pgd, epsilom: 1}]", "setting 'epsilom' is unknown. Did you mean 'epsilon'?"),
        ("[{kind: pgd, steps: [5, 10]}]", "attacks.0.steps = [5, 10]: input should be a valid integer"),
        ("[{norm: l2}]", "'kind' is missing"),
        ("[{kind: fgsm, steps: 3}]", "fgsm is one step of length epsilon; leave out 'steps' and 'step_size'"),
        ("[{kind: bim, epsilon: 0.25}]", "20 steps of 0.00392 go no further than 0.0784"),
        ("[{kind: pgd, norm: l3}]", "norm = 'l3': input should be 'linf' or 'l2'"),
        ("3", "attacks = 3: input should be a valid tuple"),
        ("[pgd, {kind: pgd, examples: 10}]", "two attacks are called 'pgd-linf-0.0627x20'"),
    ],
)  # fmt: skip
def test_mistakes_are_reported_with_their_place(tmp_path, attacks, words):
    message = refused(tmp_path, attacks)
    assert message.startswith("study.yaml:")
    assert words in message
    assert len(message.splitlines()) <= 2


def test_flags_name_attacks_as_the_file_does(tmp_path):
    flags = {"tasks": ["digits"], "networks": ["mlp-8"], "methods": ["map"]}
    given = {"draws": 3, "attacks": ["fgsm", {"kind": "pgd", "adaptive": True}]}
    found = study_from_flags({**flags, "protocol": given})
    assert found.protocol == read(tmp_path, "[fgsm, {kind: pgd, adaptive: true}]").protocol


def test_a_task_without_a_range_of_pixels_cannot_be_attacked_and_planning_says_so(tmp_path):
    with pytest.raises(
        ConfigError, match=r"task 'gaussian_mixture' does not say .*\n  Leave out 'attacks' or the task"
    ):
        plan(read(tmp_path, "[pgd]", task="[digits, gaussian_mixture]"))
    assert plan(read(tmp_path, "[]", task="[digits, gaussian_mixture]")).specs


def test_a_protocol_without_attacks_has_the_identity_it_had_before_there_were_any():
    """Stored results are found by this: a change here makes every folder of every user an orphan."""
    assert Protocol().identity() == Protocol(attacks=()).identity() == {"draws": 20, "budget": 1.0}
    spec = RunSpec(Part("digits", 1), "0123", Part("resnet20", 1), Part("map", 1), Protocol().identity(), 0)
    assert spec.id == "digits.resnet20.map.s0-45ce31e714b1"


def test_every_setting_of_an_attack_makes_another_run():
    changes: list[dict[str, Any]] = [
        {}, {"norm": "l2"}, {"epsilon": 0.05}, {"steps": 21}, {"step_size": 0.01}, {"adaptive": True}, {"examples": 7},
    ]  # fmt: skip
    protocols = [Protocol(), *(Protocol(attacks=({"kind": "pgd", **change},)) for change in changes)]
    ids = {RunSpec(Part("digits", 1), "0", Part("n", 1), Part("map", 1), each.identity(), 0).id for each in protocols}
    assert len(ids) == len(protocols)


def test_tables_show_attacks_by_their_labels():
    shown = shown_protocol(Protocol(attacks=("fgsm", "pgd")).identity())
    assert shown == {"draws": 20, "budget": 1.0, "attacks": "fgsm-linf-0.0627,pgd-linf-0.0627x20"}
    assert shown_protocol({"draws": 3}) == {"draws": 3}


def test_declaring_attacks_imports_nothing_heavy():
    code = "import sys, benchmark.identity, benchmark.attacks.config; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_built_in_study_plans():
    labels = [attack.label for attack in read_study("detection").protocol.attacks]
    assert labels == ["fgsm-linf-0.125", "pgd-linf-0.125x20", "pgd-linf-0.125x20-adaptive"]
    assert plan(read_study("detection")).rows

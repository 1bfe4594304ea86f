"""Everything that can be wrong with a study is reported with file, line, value, legal values and the nearest match."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from benchmark.errors import ConfigError
from benchmark.study import find_study, read_study, study_from_flags

GOOD = {"tasks": "digits", "networks": "mlp-8", "methods": "map"}


def refused(tmp_path: Path, text: str) -> str:
    """The message for a study, with its path shortened to the file name."""
    path = tmp_path / "study.yaml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        read_study(str(path))
    return str(raised.value).replace(str(path), "study.yaml")


def refused_methods(tmp_path: Path, methods: str) -> str:
    """The message for a study whose methods begin on line 4."""
    body = textwrap.indent(textwrap.dedent(methods).strip("\n"), "  ")
    return refused(tmp_path, f"tasks: digits\nnetworks: mlp-8\nmethods:\n{body}\n")


def test_an_unknown_top_key_is_named_with_line_nearest_match_and_legal_keys(tmp_path):
    message = refused(tmp_path, "tasks: digits\nnetworks: mlp-8\nmethods: map\nseed: 3\n")
    assert message == (
        "study.yaml:4: key 'seed' is unknown. Did you mean 'seeds'?\n"
        "  legal: defaults, description, exclude, launcher, methods, name, networks, protocol, reference, resources, "
        "seeds, tasks"
    )


@pytest.mark.parametrize(
    ("key", "typo", "meant"),
    [("methods", "mean_feild", "mean_field"), ("tasks", "digts", "digits"), ("networks", "resnt20", "resnet20")],
)
def test_a_misspelt_name_is_reported_with_its_line_the_nearest_match_and_the_verb_that_lists(
    tmp_path, key, typo, meant
):
    lines = {name: f"{name}:\n  - {value}\n" for name, value in GOOD.items()} | {key: f"{key}:\n  - {typo}\n"}
    message = refused(tmp_path, "".join(lines.values()))
    line = 2 * list(lines).index(key) + 2
    assert message.startswith(f"study.yaml:{line}: {key[:-1]} '{typo}' is unknown. Did you mean '{meant}'?\n  legal: ")
    assert meant in message.split("legal: ")[1]
    assert message.endswith(f"(bnnbench list {key})")


def test_a_misspelt_network_family_keeps_its_numbers_in_the_suggestion(tmp_path):
    message = refused(tmp_path, "tasks: digits\nnetworks: [mlp-8, wnr-16-4]\nmethods: map\n")
    assert message.startswith("study.yaml:2: network 'wnr-16-4' is unknown. Did you mean 'wrn-16-4'?")


def test_an_illegal_network_of_a_known_family_has_line_and_legal_forms(tmp_path):
    message = refused(tmp_path, "tasks: digits\nnetworks:\n  - wrn-15-4\nmethods: map\n")
    assert message.startswith("study.yaml:3: network 'wrn-15-4'")
    assert "6n+4" in message


def test_settings_of_a_network_are_refused(tmp_path):
    message = refused(tmp_path, "tasks: digits\nnetworks:\n  - mlp-8: {width: 3}\nmethods: map\n")
    assert message.startswith("study.yaml:3: setting 'width' is unknown.")


def test_an_unknown_setting_has_its_own_line(tmp_path):
    message = refused_methods(tmp_path, "- map:\n    lr: 0.1\n    epoch: 3\n")
    assert message.startswith("study.yaml:6: setting 'epoch' is unknown. Did you mean 'epochs'?\n  legal: accumulate")


def test_an_unknown_nested_setting_is_matched_against_the_alternative_that_its_kind_names(tmp_path):
    message = refused_methods(
        tmp_path,
        """
        - mean_field:
            epochs: 2
            sigma_init:
              kind: uniform_log
              lo: -5
        """,
    )
    assert message == (
        "study.yaml:8: sigma_init: setting 'lo' is unknown. Did you mean 'low'?\n  legal: high, kind, low"
    )


def test_a_nested_value_out_of_range_has_its_line_and_path(tmp_path):
    message = refused_methods(
        tmp_path,
        """
        - map
        - mean_field:
            sigma_search: no
            sigma_init:
              kind: constant
              value: -1
        """,
    )
    assert message == "study.yaml:9: sigma_init.value = -1: input should be greater than 0"


def test_an_unknown_kind_of_a_nested_setting_has_the_legal_kinds_and_the_nearest(tmp_path):
    message = refused_methods(tmp_path, "- mean_field:\n    sigma_init: {kind: constnt}\n")
    assert message.startswith("study.yaml:5: sigma_init = {'kind': 'constnt'}")
    assert "'relative_rms', 'constant', 'fan_in'" in message
    assert message.endswith("Did you mean 'constant'?")


def test_the_wrong_type_is_reported_with_value_and_line(tmp_path):
    message = refused_methods(tmp_path, "- map:\n    lr: 0.1\n    epochs: many\n")
    assert message.startswith("study.yaml:6: epochs = 'many': input should be a valid integer")


def test_the_alternatives_of_a_setting_are_one_sentence(tmp_path):
    message = refused_methods(tmp_path, "- map: {lr: -1}\n")
    assert message == "study.yaml:4: lr = -1: input should be 'auto', or input should be greater than 0"


def test_an_illegal_choice_has_the_legal_values_and_the_nearest(tmp_path):
    message = refused_methods(tmp_path, "- map: {schedule: cosin}\n")
    assert message == (
        "study.yaml:4: schedule = 'cosin': input should be 'cosine', 'steps' or 'constant'. Did you mean 'cosine'?"
    )


def test_an_unknown_preset_has_its_line_the_nearest_and_the_legal_ones(tmp_path):
    message = refused_methods(tmp_path, "- map:\n    lr: 0.1\n    preset: wnr\n")
    assert message == (
        "study.yaml:6: preset = 'wnr': not a preset. Did you mean 'wrn'?\n"
        "  legal: deit, mlp_mnist, recommended, resnet_cifar, resnet_imagenet, wrn"
    )


def test_settings_that_contradict_each_other_are_reported_at_their_entry(tmp_path):
    message = refused_methods(tmp_path, "- mean_field\n- map: {patience: 3, select: last}\n")
    assert message.startswith("study.yaml:5: 'patience' watches the validation NLL")


def test_every_mistake_of_an_entry_is_reported_at_once(tmp_path):
    message = refused_methods(tmp_path, "- map:\n    epochs: -1\n    warmup: 2\n    lerning: 1\n")
    assert [line.partition(": ")[0] for line in message.splitlines() if line.startswith("study")] == [
        "study.yaml:7",
        "study.yaml:5",
        "study.yaml:6",
    ]


def test_one_bad_value_of_an_axis_is_named(tmp_path):
    message = refused_methods(tmp_path, "- map:\n    epochs: [1, 2, -1]\n")
    assert message == "study.yaml:5: epochs = -1: input should be greater than or equal to 0"


def test_an_empty_axis_is_refused(tmp_path):
    assert refused_methods(tmp_path, "- map: {epochs: []}\n").startswith("study.yaml:4: epochs = []: input should be")


def test_a_setting_whose_name_is_a_number_is_unknown(tmp_path):
    assert refused_methods(tmp_path, "- map:\n    1: 2\n").startswith("study.yaml:5: setting '1' is unknown.")


@pytest.mark.parametrize("budget", [".inf", ".nan", "0", "-1"])
def test_a_budget_must_be_a_positive_finite_number(tmp_path, budget):
    message = refused(tmp_path, f"tasks: digits\nnetworks: mlp-8\nmethods: map\nprotocol:\n  budget: {budget}\n")
    assert message.startswith("study.yaml:5: budget = ")


def test_an_unknown_protocol_key_is_refused(tmp_path):
    message = refused(tmp_path, "tasks: digits\nnetworks: mlp-8\nmethods: map\nprotocol:\n  draw: 3\n")
    assert message == (
        "study.yaml:5: setting 'draw' is unknown. Did you mean 'draws'?\n  legal: attacks, budget, draws, shift"
    )


@pytest.mark.parametrize("value", ["3", "[]", "''", "false"])
def test_a_protocol_that_is_no_mapping_is_refused(tmp_path, value):
    message = refused(tmp_path, f"tasks: digits\nnetworks: mlp-8\nmethods: map\nprotocol: {value}\n")
    assert message.startswith("study.yaml:4: 'protocol' must be a mapping")


def test_a_repeated_key_is_refused_at_its_second_line(tmp_path):
    message = refused(tmp_path, "tasks: digits\nnetworks: mlp-8\nmethods:\n  - map:\n      lr: 1\n      lr: 2\n")
    assert message == "study.yaml:6: key 'lr' is given twice. Keep one of them."


def test_broken_yaml_is_reported_with_its_line(tmp_path):
    message = refused(tmp_path, "tasks: digits\nnetworks: [mlp-8\nmethods: map\n")
    assert message.startswith("study.yaml:3: not valid YAML: expected ',' or ']'")


def test_a_tab_is_reported_with_its_line(tmp_path):
    message = refused(tmp_path, "tasks: digits\nmethods:\n\t- map\n")
    assert message.startswith("study.yaml:3: not valid YAML: found character '\\t'")


def test_two_documents_in_one_file_are_refused(tmp_path):
    assert refused(tmp_path, "tasks: digits\n---\ntasks: digits\n").startswith("study.yaml:2: not valid YAML")


def test_a_python_object_in_yaml_is_refused_and_not_made(tmp_path):
    message = refused(tmp_path, f"tasks: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    assert message.startswith("study.yaml:1: not valid YAML: the tag 'tag:yaml.org,2002:python/object")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("text", ["a: &a [*a]", "&a {b: *a}"])
def test_a_value_that_contains_itself_is_refused(tmp_path, text):
    assert refused(tmp_path, text) == "study.yaml:1: a value contains itself through an alias. Spell it out."


@pytest.mark.parametrize("text", ["{{ tasks }}: 3", "? [a, b]\n: 3"])
def test_a_key_that_is_a_mapping_or_a_list_is_refused(tmp_path, text):
    assert refused(tmp_path, text) == "study.yaml:1: a key must be plain text, not a list or mapping."


def test_a_date_that_does_not_exist_is_reported_with_its_line(tmp_path):
    assert refused(tmp_path, "tasks: digits\nname: 2024-13-45\n").startswith("study.yaml:2: not valid YAML: month")


@pytest.mark.parametrize(
    ("text", "found"), [("", "is empty"), ("# nothing\n", "is empty"), ("- digits\n", "holds ['d")]
)
def test_a_file_that_is_no_mapping_is_refused_with_the_keys_of_a_study(tmp_path, text, found):
    message = refused(tmp_path, text)
    assert "a study is a mapping with the keys name, description, tasks, networks" in message
    assert found in message


@pytest.mark.parametrize("key", ["tasks", "networks", "methods"])
@pytest.mark.parametrize("value", ["", "[]"])
def test_a_missing_or_empty_list_is_refused_with_an_example(tmp_path, key, value):
    text = "".join(f"{name}: {given}\n" for name, given in ({**GOOD, key: value}).items())
    message = refused(tmp_path, text)
    line = list(GOOD).index(key) + 1
    assert message.startswith(f"study.yaml:{line}: '{key}' is missing or empty. Example: {key}: [")


def test_an_entry_that_is_neither_name_nor_mapping_is_refused(tmp_path):
    assert refused_methods(tmp_path, "- map\n- 3\n").startswith("study.yaml:5: an entry of 'methods' is a name or")
    assert refused_methods(tmp_path, "- {map: {}, mean_field: {}}\n").startswith("study.yaml:4: an entry of 'methods'")
    assert refused_methods(tmp_path, "- map: 3\n").startswith("study.yaml:4: the settings of 'map' must be a mapping")


@pytest.mark.parametrize(
    "methods",
    [
        "- map\n- map\n",
        "- map\n- map: {epochs: 20}\n",
        "- map: {epochs: [3, 3]}\n- mean_field\n",
        "- map: {preset: recommended}\n- map\n",
        "- mean_field: {preset: tempered}\n- mean_field: {kl_temperature: 0.1}\n",
    ],
)
def test_the_same_settings_twice_are_refused_however_they_are_spelled(tmp_path, methods):
    message = refused_methods(tmp_path, methods)
    assert message.startswith("study.yaml:")
    assert message.endswith("with the same settings is listed twice.")


def test_a_network_listed_twice_is_refused(tmp_path):
    message = refused(tmp_path, "tasks: digits\nnetworks:\n  - mlp-8\n  - mlp-8\nmethods: map\n")
    assert message == "study.yaml:4: network 'mlp-8' with the same settings is listed twice."


@pytest.mark.parametrize("seeds", ["0", "-1", "true", "[]", "[0, -1]", "[0, true]", "1.5", "many", "[1.5]", "{a: 1}"])
def test_bad_seeds_are_refused_with_both_legal_forms(tmp_path, seeds):
    message = refused(tmp_path, f"tasks: digits\nnetworks: mlp-8\nmethods: map\nseeds: {seeds}\n")
    assert message.startswith("study.yaml:4: 'seeds' is a number of seeds (5) or a list of them ([0, 1, 2]), got ")


def test_a_repeated_seed_is_refused(tmp_path):
    message = refused(tmp_path, "tasks: digits\nnetworks: mlp-8\nmethods: map\nseeds: [0, 1, 0]\n")
    assert message == "study.yaml:4: 'seeds' repeats a seed: [0, 1, 0]."


def with_line_4(text: str) -> str:
    return f"tasks: digits\nnetworks: mlp-8\nmethods: map\n{text}\n"


def test_a_bad_exclude_key_has_line_and_nearest(tmp_path):
    message = refused(tmp_path, with_line_4("exclude:\n  - network: mlp-8\n    methd: map"))
    assert message.startswith("study.yaml:6: key 'methd' is unknown. Did you mean 'method'?")


@pytest.mark.parametrize("text", ["exclude: map", "exclude: {method: map}"])
def test_an_exclude_that_is_no_list_is_refused(tmp_path, text):
    assert refused(tmp_path, with_line_4(text)).startswith("study.yaml:4: 'exclude' is a list of")


@pytest.mark.parametrize("pattern", ["map", "{}"])
def test_an_exclude_pattern_without_keys_is_refused(tmp_path, pattern):
    message = refused(tmp_path, with_line_4(f"exclude:\n  - {pattern}"))
    assert message.startswith("study.yaml:5: a pattern maps task, network, method, seed to names")


def test_a_list_in_an_exclude_pattern_is_refused_since_it_would_match_nothing(tmp_path):
    message = refused(tmp_path, with_line_4("exclude:\n  - {method: [map, mean_field]}"))
    assert message.startswith("study.yaml:5: 'method' of a pattern is one name")


def test_defaults_for_an_unknown_method_are_refused(tmp_path):
    message = refused(tmp_path, with_line_4("defaults:\n  mapp: {epochs: 3}"))
    assert message.startswith("study.yaml:5: method 'mapp' is unknown. Did you mean 'map'?")


def test_a_default_with_a_list_is_refused(tmp_path):
    message = refused(tmp_path, with_line_4("defaults:\n  map:\n    epochs: [3, 4]"))
    assert message == ("study.yaml:5: a default is one value; put the list under 'methods' to make it an axis.")


def test_a_wrong_default_is_refused_even_when_no_row_uses_it(tmp_path):
    message = refused(tmp_path, with_line_4("defaults:\n  mean_field:\n    epochs: -3"))
    assert message.startswith("study.yaml:6: epochs = -3: input should be")


@pytest.mark.parametrize("text", ["defaults: [map]", "defaults:\n  map: 3"])
def test_defaults_that_are_no_mapping_are_refused(tmp_path, text):
    assert "must be a mapping" in (message := refused(tmp_path, with_line_4(text))) or "maps method names" in message


@pytest.mark.parametrize("text", ["launcher: 3", "launcher: [local]", "launcher: {local: {}, inline: {}}"])
def test_a_launcher_is_a_name_or_one_name_with_settings(tmp_path, text):
    message = refused(tmp_path, with_line_4(text))
    assert message.startswith("study.yaml:4: 'launcher' is a name or one 'name: {setting: value}'")


@pytest.mark.parametrize("key", ["name", "description"])
def test_name_and_description_must_be_text(tmp_path, key):
    assert refused(tmp_path, with_line_4(f"{key}: 3")) == f"study.yaml:4: '{key}' must be text, got 3."


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\xff", b"tasks: \xff\xfe", b"tasks: a\x00b", b"\x00\x01\x02"])
def test_a_binary_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"study\.yaml.*(not a text file|is not text)"):
        read_study(str(path))


@pytest.mark.parametrize("name", ["folder", "folder.yaml"])
def test_a_folder_in_place_of_a_file_is_called_a_folder(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=rf"{name}' is a folder"):
        find_study(str(tmp_path / name))


def test_a_missing_file_is_reported_with_its_near_neighbour_only(tmp_path):
    (tmp_path / "digits.yaml").touch()
    with pytest.raises(ConfigError, match=r"no such file\. Did you mean 'digits\.yaml'\?"):
        find_study(str(tmp_path / "digts.yaml"))
    with pytest.raises(ConfigError, match=r"no such file\.$"):
        find_study(str(tmp_path / "something_else.yaml"))


def test_an_unknown_built_in_study_says_that_a_path_would_do():
    with pytest.raises(ConfigError, match=r"study 'no_such_study' is unknown\.[^$]*or the path of a \.yaml file"):
        find_study("no_such_study")


def test_a_mistake_in_a_flag_is_said_to_be_on_the_command_line_and_not_in_the_file(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("tasks: digits\nnetworks: mlp-8\nmethods: map\nprotocol:\n  budget: 1\n  draws: 4\n")
    with pytest.raises(ConfigError, match=r"^command line: draws = 0: "):
        read_study(str(path), {"protocol": {"draws": 0}})
    with pytest.raises(ConfigError, match=r"^command line: method 'mpa' is unknown\. Did you mean 'map'"):
        read_study(str(path), {"methods": ["mpa"]})
    path.write_text("tasks: digits\nnetworks: mlp-8\nmethods: map\nprotocol:\n  budget: 0\n  draws: 4\n")
    with pytest.raises(ConfigError, match=r"study\.yaml:5: budget = 0: "):
        read_study(str(path), {"protocol": {"draws": 3}})


def test_flags_without_a_file_are_checked_alike():
    with pytest.raises(ConfigError, match=r"^command line: 'methods' is missing or empty"):
        study_from_flags({"tasks": ["digits"], "networks": ["mlp-8"]})


@pytest.mark.parametrize("name", ["../../evil", "a b/c", "", ".hidden", "x\ny"])
def test_a_name_that_could_leave_the_results_folder_is_refused_with_its_line(tmp_path, name):
    path = tmp_path / "study.yaml"
    text = f"tasks: [digits]\nname: {json.dumps(name)}\nnetworks: [mlp-8]\nmethods: [map]\n"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"study\.yaml:2: 'name' is .*it names a folder"):
        read_study(str(path))

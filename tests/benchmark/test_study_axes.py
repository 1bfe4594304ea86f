"""What a study means: lists are axes, flags equal the file, YAML is read as people expect."""

from __future__ import annotations

import textwrap
from typing import Any, Literal

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as st
from pydantic import Field

from benchmark.config import Config, MethodConfig
from benchmark.errors import ConfigError
from benchmark.settings import expand_axes
from benchmark.study import Study, read_study, study_from_flags, validate
from benchmark.yamlfile import parse


def study(text: str) -> Study:
    return validate(parse("name: x\n" + textwrap.dedent(text), "study.yaml"))


# Not digits: PyYAML writes the text "1e3" without quotes, and the floats of YAML 1.2 are numbers here.
TEXT = st.text("abyno ~-:#{}[]'\"\t\n,&*!%@`", max_size=6)


class Fixed(Config):
    kind: Literal["fixed"] = "fixed"
    value: float = 1.0


class Ranged(Config):
    kind: Literal["ranged"] = "ranged"
    low: float = 0.0
    high: float = 1.0


class Inner(Config):
    a: int = 0
    b: int = 0


class Toy(MethodConfig):
    x: int = 0
    y: Literal["p", "q"] = "p"
    sizes: tuple[int, ...] = ()
    names: list[str] | None = None
    either: int | list[int] = 0
    inner: Inner = Inner()
    maybe: Inner | None = None
    prior: Fixed | Ranged = Field(Fixed(), discriminator="kind")


def points(**given: Any) -> list[dict[str, Any]]:
    return list(expand_axes(Toy, given))


def test_settings_without_lists_are_one_point():
    assert points(x=3, y="q") == [{"x": 3, "y": "q"}]
    assert points() == [{}]


def test_several_lists_span_their_product_and_the_last_varies_fastest():
    assert points(x=[1, 2], y=["p", "q"]) == [
        {"x": 1, "y": "p"},
        {"x": 1, "y": "q"},
        {"x": 2, "y": "p"},
        {"x": 2, "y": "q"},
    ]


def test_a_field_that_takes_a_list_is_no_axis():
    assert points(sizes=[1, 2], names=["a"], either=[3, 4]) == [{"sizes": [1, 2], "names": ["a"], "either": [3, 4]}]


def test_a_mistake_in_a_list_that_a_field_takes_stays_in_the_list():
    assert points(sizes=[1, "two"]) == [{"sizes": [1, "two"]}]


def test_a_list_of_lists_is_an_axis_of_a_field_that_takes_a_list():
    assert points(sizes=[[1, 2], [3]]) == [{"sizes": [1, 2]}, {"sizes": [3]}]


def test_a_list_inside_a_nested_model_is_an_axis():
    assert points(inner={"a": [1, 2], "b": 5}, x=[7, 8]) == [
        {"inner": {"a": a, "b": 5}, "x": x} for a in (1, 2) for x in (7, 8)
    ]
    assert points(maybe={"a": [1, 2]}) == [{"maybe": {"a": 1}}, {"maybe": {"a": 2}}]


def test_a_list_inside_any_alternative_of_a_union_is_an_axis():
    assert points(prior={"kind": "ranged", "low": [-2, -1]}) == [
        {"prior": {"kind": "ranged", "low": low}} for low in (-2, -1)
    ]


def test_nested_models_in_a_list_are_an_axis_and_their_lists_are_too():
    assert points(prior=[{"kind": "fixed", "value": [1, 2]}, {"kind": "ranged"}]) == [
        {"prior": {"kind": "fixed", "value": 1}},
        {"prior": {"kind": "fixed", "value": 2}},
        {"prior": {"kind": "ranged"}},
    ]


def test_the_kind_of_a_nested_model_can_be_an_axis():
    assert points(prior={"kind": ["fixed", "ranged"]}) == [{"prior": {"kind": kind}} for kind in ("fixed", "ranged")]


def test_an_unknown_key_is_left_for_validation_to_report():
    assert points(unknown=[1, 2]) == [{"unknown": [1, 2]}]


@settings(deadline=None)
@hypothesis_given(
    st.lists(st.integers(), min_size=1, max_size=4), st.lists(st.sampled_from("pq"), min_size=1, max_size=3)
)
def test_the_number_of_points_is_the_product_of_the_axes_and_each_is_a_choice_of_each(xs, ys):
    found = points(x=xs, y=ys)
    assert [(point["x"], point["y"]) for point in found] == [(x, y) for x in xs for y in ys]


def test_a_studys_axes_become_rows_labelled_by_what_was_spelled_out():
    found = study("""
        tasks: digits
        networks: mlp-8
        methods:
          - map
          - mean_field: {preset: tempered, epochs: [2, 3]}
        defaults: {mean_field: {travel: 2.0}}
    """)
    assert [(item.name, dict(item.given)) for item in found.methods] == [
        ("map", {}),
        ("mean_field", {"preset": "tempered", "epochs": 2}),
        ("mean_field", {"preset": "tempered", "epochs": 3}),
    ]
    settings = [item.config.identity() for item in found.methods[1:]]
    assert [(s["epochs"], s["kl_temperature"], s["travel"]) for s in settings] == [(2, 0.1, 2.0), (3, 0.1, 2.0)]


def test_settings_of_an_entry_win_over_defaults():
    found = study("""
        tasks: digits
        networks: mlp-8
        methods: {map: {epochs: 3}}
        defaults: {map: {epochs: 9, batch_size: 16}}
    """)
    assert (found.methods[0].config.epochs, found.methods[0].config.batch_size) == (3, 16)


def test_the_settings_of_a_task_can_be_an_axis():
    found = study("tasks: {digits: {image_size: [8, 16]}}\nnetworks: mlp-8\nmethods: map")
    assert [item.config.image_size for item in found.tasks] == [8, 16]


def test_flags_equal_the_file(tmp_path):
    text = """\
        name: flags
        tasks: [digits]
        networks: [mlp-8, wrn-10-1]
        methods: [map, {mean_field: {epochs: [2, 3]}}]
        seeds: [0, 3]
        protocol: {draws: 7}
        defaults: {map: {epochs: 2}}
    """
    flags = {
        "tasks": ["digits"],
        "networks": ["mlp-8", "wrn-10-1"],
        "methods": ["map", {"mean_field": {"epochs": [2, 3]}}],
        "seeds": [0, 3],
        "protocol": {"draws": 7},
        "defaults": {"map": {"epochs": 2}},
    }
    assert study_from_flags(flags) == validate(parse(textwrap.dedent(text), "s"))
    path = tmp_path / "flags.yaml"
    path.write_text("tasks: digits\nnetworks: mlp-8\nmethods: mean_field\nseeds: 9\n")
    assert read_study(str(path), flags) == study_from_flags(flags)


def test_a_protocol_flag_replaces_only_its_own_key(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("tasks: digits\nnetworks: mlp-8\nmethods: map\nprotocol: {draws: 7, budget: 0.5}\n")
    found = read_study(str(path), {"protocol": {"draws": 3}})
    assert (found.name, found.protocol.draws, found.protocol.budget) == ("s", 3, 0.5)


def test_seeds_are_a_number_or_a_list():
    rest = "tasks: digits\nnetworks: mlp-8\nmethods: map\n"
    assert study(rest).seeds == (0,)
    assert study(rest + "seeds: 3").seeds == (0, 1, 2)
    assert study(rest + "seeds: [5, 2]").seeds == (5, 2)


def test_empty_optional_keys_are_as_good_as_absent_ones():
    rest = "tasks: digits\nnetworks: mlp-8\nmethods: map\n"
    assert study(rest + "protocol:\ndefaults:\nexclude:\nlauncher:\n") == study(rest)


@pytest.mark.parametrize(("text", "given"), [("local", {"local": {}}), ("{local: }", {"local": {}})])
def test_a_launcher_without_settings_is_its_name(text, given):
    assert study(f"tasks: digits\nnetworks: mlp-8\nmethods: map\nlauncher: {text}").launcher == given


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("-2e+3", -2000.0),
        (".5e1", 5.0),
        ("1.e2", 100.0),
        ("0.5", 0.5),
        ("3", 3),
        ("2dgbnn", "2dgbnn"),
        ("wrn-16-4", "wrn-16-4"),
        ("1e3x", "1e3x"),
        ("e5", "e5"),
        ("timm:resnet18", "timm:resnet18"),
        ("yes", True),
        ("no", False),
        ("'no'", "no"),
        ("~", None),
        ("'1e-3'", "1e-3"),
    ],
)
def test_yaml_scalars_mean_what_they_look_like(text, value):
    found = parse(f"key: {text}", "s").value["key"]
    assert found == value
    assert type(found) is type(value)


def test_a_rate_in_scientific_notation_is_a_number_everywhere():
    found = study("tasks: digits\nnetworks: mlp-8\nmethods: {map: {lr: [1e-3, 0.001e1]}}")
    assert [item.config.lr for item in found.methods] == [0.001, 0.01]
    assert [item.given["lr"] for item in found.methods] == [0.001, 0.01]


def test_names_that_begin_with_digits_or_hold_dashes_are_names():
    found = study("tasks: digits\nnetworks: [wrn-16-4, mlp-8-8]\nmethods: map")
    assert [network.name for network in found.networks] == ["wrn-16-4", "mlp-8-8"]
    with pytest.raises(ConfigError, match="method '9dgbnn' is unknown"):
        study("tasks: digits\nnetworks: mlp-8\nmethods: [9dgbnn]")


def test_merged_mappings_may_be_overridden_and_used_again():
    found = parse("base: &b {p: 1, q: 2}\none:\n  <<: *b\n  p: 3\ntwo:\n  <<: *b\n  q: 4\nagain: *b\n", "s")
    assert found.value == {
        "base": {"p": 1, "q": 2},
        "one": {"p": 3, "q": 2},
        "two": {"p": 1, "q": 4},
        "again": {"p": 1, "q": 2},
    }
    assert found.where(("two", "q")) == "s:7"


def test_a_place_without_a_line_has_that_of_its_parent():
    found = parse("a:\n  - b: 1\n    c:\n      d: 2\n", "s")
    assert found.where(("a", 0, "c", "d")) == "s:4"
    assert found.where(("a", 0, "c", "nowhere", 3)) == "s:3"
    assert found.where(("elsewhere",)) == "s:1"


@settings(deadline=None)
@hypothesis_given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=8,
    )
)
def test_what_pyyaml_writes_is_read_back(value):
    import yaml

    assert parse(yaml.safe_dump(value, allow_unicode=True), "s").value == value

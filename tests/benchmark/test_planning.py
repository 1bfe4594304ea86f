"""From a study to its runs: needs, order, sharing, exclusion, and the identity of every run."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as st

from benchmark.config import MethodConfig
from benchmark.contracts import Method, Need
from benchmark.errors import ConfigError, CorruptFile
from benchmark.files import canonical_json
from benchmark.identity import Part, RunSpec, label_of
from benchmark.plan import Plan, plan
from benchmark.registry import METHODS, TASKS
from benchmark.study import validate
from benchmark.yamlfile import parse


def planned(methods: str, rest: str = "", *, tasks: str = "digits", networks: str = "[mlp-8]") -> Plan:
    text = f"name: x\ntasks: {tasks}\nnetworks: {networks}\nmethods:\n  {methods}\n" + textwrap.dedent(rest)
    return plan(validate(parse(text, "study.yaml")))


def names(found: Plan) -> list[str]:
    """The runs in order: `network.method.seed`, in brackets when only needed by another."""
    shown = [f"{c.spec.network.name}.{c.spec.method.name}.s{c.spec.seed}" for c in found.cells]
    return [name if cell.row else f"({name})" for name, cell in zip(shown, found.cells, strict=True)]


def run_of(found: Plan, method: str) -> RunSpec:
    return next(spec for spec in found.specs.values() if spec.method.name == method)


class LinkConfig(MethodConfig):
    strength: int = 1


class Link(Method):
    """A method that needs whatever the test says."""

    Config = LinkConfig

    def __init__(self, name: str, *needs: Need) -> None:
        self.name = name  # type: ignore[misc]
        self._needs = needs

    def needs(self, config: Any) -> tuple[Need, ...]:
        return self._needs

    def fit(self, problem: Any, ctx: Any, config: Any) -> Any:
        raise NotImplementedError

    def posterior_type(self) -> Any:
        raise NotImplementedError


@pytest.fixture
def methods() -> Iterator[Any]:
    """Register methods for one test."""
    before = list(METHODS._added), METHODS._found, dict(METHODS._instances)
    yield lambda name, *needs: METHODS.add(name, Link(name, *needs), f"test:{name}", "a test")
    METHODS._added, METHODS._found, METHODS._instances = before


def test_a_needed_run_comes_first_and_is_no_row_of_its_own():
    found = planned("mean_field", "seeds: 2")
    assert names(found) == ["(mlp-8.map.s0)", "mlp-8.mean_field.s0", "(mlp-8.map.s1)", "mlp-8.mean_field.s1"]
    assert run_of(found, "mean_field").needs == (run_of(found, "map").id,)


def test_a_needed_run_that_is_listed_too_is_one_run_and_a_row():
    assert names(planned("[map, mean_field]")) == ["mlp-8.map.s0", "mlp-8.mean_field.s0"]
    assert names(planned("[mean_field, map]")) == ["mlp-8.map.s0", "mlp-8.mean_field.s0"]


def test_methods_share_one_base_per_task_network_and_seed():
    found = planned(
        "[mean_field, map_finetuned, map_temperature]", "seeds: 2", tasks="[digits, gaussian_mixture]",
        networks="[mlp-8, mlp-9]",
    )  # fmt: skip
    bases = [spec for spec in found.specs.values() if spec.method.name == "map"]
    assert len(bases) == 2 * 2 * 2
    assert len(found.rows) == 3 * len(bases)
    for spec in found.rows.values():
        (base,) = (found.specs[need] for need in spec.needs)
        assert (base.task, base.network, base.seed) == (spec.task, spec.network, spec.seed)


def test_the_members_of_an_ensemble_are_runs_of_map_and_member_0_is_the_base():
    found = planned("[deep_ensemble: {members: 3}, mean_field]")
    ensemble, base = run_of(found, "deep_ensemble"), run_of(found, "mean_field").needs[0]
    assert [found.specs[need].method.config["member"] for need in ensemble.needs] == [0, 1, 2]
    assert ensemble.needs[0] == base
    assert len(found.specs) == 3 + 2


def test_smaller_ensembles_reuse_the_members_of_larger_ones():
    found = planned("{deep_ensemble: {members: [2, 4]}}")
    assert len(found.specs) == 4 + 2


def test_every_run_comes_after_the_runs_that_it_needs(methods):
    methods("third", Need("second"), Need("map"))
    methods("second", Need("mean_field", {"epochs": 2}), Need("map", {"member": 1}))
    found = planned("[third, deep_ensemble, mean_field, second]", "seeds: 2", networks="[mlp-8, mlp-9]")
    seen: set[str] = set()
    for run_id, spec in found.specs.items():
        assert set(spec.needs) <= seen
        seen.add(run_id)
    assert len(seen) == len(found.cells) == 2 * 2 * (4 + 1 + 1 + 4)  # rows, mean_field of 2 epochs, base, members 1..4


def test_defaults_apply_to_rows_and_to_needed_runs_alike():
    found = planned("[map, mean_field]", "defaults: {map: {epochs: 3}}")
    assert len(found.specs) == 2
    assert run_of(found, "map").method.config["epochs"] == 3
    other = planned("[map, mean_field]")
    assert run_of(found, "mean_field").id != run_of(other, "mean_field").id


def test_a_method_sets_its_needs_over_the_defaults():
    found = planned("deep_ensemble: {members: 2}", "defaults: {map: {member: 7, epochs: 3}}")
    maps = [spec.method.config for spec in found.specs.values() if spec.method.name == "map"]
    assert [(config["member"], config["epochs"]) for config in maps] == [(0, 3), (1, 3)]


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("{method: map}", ["(mlp-8.map.s0)", "mlp-8.mean_field.s0", "(mlp-8.map.s1)", "mlp-8.mean_field.s1"]),
        ("{method: mean_*}", ["mlp-8.map.s0", "mlp-8.map.s1"]),
        ("{seed: 1}", ["mlp-8.map.s0", "mlp-8.mean_field.s0"]),
        ("{method: m*, seed: 0}", ["mlp-8.map.s1", "mlp-8.mean_field.s1"]),
        ("{network: 'mlp-?', task: dig*}", []),
    ],
)
def test_excluded_cells_are_left_out_with_what_only_they_need(pattern, left):
    found = planned("[map, mean_field]", f"seeds: 2\nexclude: [{pattern}]")
    assert sorted(names(found)) == sorted(left)
    assert len(found.rows) + len(found.excluded) == 4


def test_an_exclude_pattern_that_matches_nothing_is_an_error_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"\{'method': 'mean_feild'\} matches no run .* Did you mean 'mean_field'\?"):
        planned("[map, mean_field]", "exclude: [{method: mean_feild}]")


def test_methods_that_need_each_other_are_an_error_that_shows_the_circle(methods):
    methods("hen", Need("egg"))
    methods("egg", Need("hen"))
    with pytest.raises(ConfigError, match="circle: hen -> egg -> hen"):
        planned("[map, hen]")


def test_a_method_that_needs_itself_is_an_error(methods):
    methods("snake", Need("snake", {"strength": 2}))
    with pytest.raises(ConfigError, match="circle: snake -> snake"):
        planned("snake")


def test_a_need_for_an_absent_method_names_who_asks_and_the_nearest(methods):
    methods("asking", Need("mapp"))
    with pytest.raises(ConfigError, match=r"method 'asking' needs runs of 'mapp': .*Did you mean 'map'"):
        planned("asking")


def test_a_need_with_a_wrong_setting_names_the_needed_method(methods):
    methods("asking", Need("map", {"epoch": 3}))
    with pytest.raises(ConfigError, match=r"method 'map': setting 'epoch' is unknown\. Did you mean 'epochs'"):
        planned("asking")


# -- identity -----------------------------------------------------------------------------------------------------

SPEC = RunSpec(
    task=Part("digits", 1, {"image_size": 8, "augment": "none"}),
    fingerprint="0123456789abcdef",
    network=Part("timm:resnet18", 2),
    method=Part("mean_field", 3, {"epochs": 12, "lr": 0.001, "select": {"include": ["ä.*"]}, "patience": None}),
    protocol={"draws": 20, "budget": 1.0},
    seed=4,
    needs=("digits.timm_resnet18.map.s4-aaaaaaaaaaaa",),
    given={"epochs": 12},
)


def test_the_id_of_a_fixed_run_is_pinned():
    """Stored results are found by this id: a change here makes every folder of every user an orphan."""
    assert SPEC.id == "digits.timm_resnet18.mean_field.s4-91c014b61e6e"


def test_the_hashed_text_of_a_fixed_run_is_pinned():
    assert canonical_json(SPEC.identity()) == (
        '{"fingerprint":"0123456789abcdef","method":{"config":{"epochs":12,"lr":0.001,"patience":null,'
        '"select":{"include":["ä.*"]}},"name":"mean_field","version":3},'
        '"needs":["digits.timm_resnet18.map.s4-aaaaaaaaaaaa"],'
        '"network":{"config":{},"name":"timm:resnet18","version":2},"protocol":{"budget":1.0,"draws":20},"schema":1,'
        '"seed":4,"task":{"config":{"augment":"none","image_size":8},"name":"digits","version":1}}'
    )


@pytest.mark.parametrize(
    "change",
    [
        {"task": Part("digits", 2, SPEC.task.config)},
        {"task": Part("digits", 1, {"image_size": 16, "augment": "none"})},
        {"task": Part("digit", 1, SPEC.task.config)},
        {"fingerprint": "0123456789abcdee"},
        {"network": Part("timm:resnet18", 3)},
        {"network": Part("timm_resnet18", 2)},
        {"method": Part("mean_field", 4, SPEC.method.config)},
        {"method": Part("mean_field", 3, {**SPEC.method.config, "epochs": 13})},
        {"protocol": {"draws": 21, "budget": 1.0}},
        {"protocol": {"draws": 20, "budget": 0.5}},
        {"seed": 5},
        {"needs": ("digits.timm_resnet18.map.s4-aaaaaaaaaaab",)},
        {"needs": ()},
    ],
)
def test_whatever_changes_a_number_changes_the_id(change):
    assert dataclasses.replace(SPEC, **change).id != SPEC.id


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reordered(inner) for key, inner in reversed(value.items())}
    return value


def test_the_order_of_keys_does_not_change_the_id():
    other = RunSpec(
        task=Part("digits", 1, reordered(SPEC.task.config)),
        fingerprint=SPEC.fingerprint,
        network=SPEC.network,
        method=Part("mean_field", 3, reordered(SPEC.method.config)),
        protocol=reordered(SPEC.protocol),
        seed=4,
        needs=SPEC.needs,
    )
    assert other.id == SPEC.id


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=2),
    max_leaves=4,
)
configs = st.dictionaries(st.text("abc", max_size=2), json_values, max_size=3)
parts = st.builds(Part, st.sampled_from(["a", "b"]), st.integers(1, 2), configs)
specs = st.builds(
    RunSpec,
    task=parts,
    fingerprint=st.sampled_from(["0", "1"]),
    network=parts,
    method=parts,
    protocol=configs,
    seed=st.integers(0, 2),
    needs=st.lists(st.sampled_from(["x", "y"]), max_size=2).map(tuple),
    given=configs,
)


@settings(deadline=None)
@hypothesis_given(specs, specs, configs)
def test_the_id_is_a_function_of_the_identity_only(one, other, given):
    assert dataclasses.replace(one, given=given).id == one.id
    assert (one.id == other.id) == (canonical_json(one.identity()) == canonical_json(other.identity()))


@settings(deadline=None)
@hypothesis_given(specs)
def test_a_specification_comes_back_from_its_file_as_it_was(spec):
    import json

    assert RunSpec.from_json(json.loads(json.dumps(spec.to_json())), "spec.json") == spec


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: {**value, "seed": 5},
        lambda value: {**value, "schema": 2},
        lambda value: {**value, "task": "digits"},
        lambda value: {**value, "method": {**value["method"], "extra": 1}},
        lambda value: {**value, "protocol": {"budget": float("nan")}},
        lambda value: {key: inner for key, inner in value.items() if key != "id"},
        lambda value: {key: inner for key, inner in value.items() if key != "needs"},
        lambda value: [value],
        lambda value: None,
    ],
)
def test_a_specification_that_was_changed_by_hand_is_refused_with_its_place(damage):
    with pytest.raises(CorruptFile, match=r"^runs/x/spec\.json "):
        RunSpec.from_json(damage(SPEC.to_json()), "runs/x/spec.json")


def test_a_readable_slug_holds_nothing_that_a_file_system_minds():
    spec = dataclasses.replace(SPEC, network=Part("timm:a/b c", 1), task=Part("../x", 1))
    assert spec.id.rpartition("-")[0] == ".._x.timm_a_b_c.mean_field.s4"


def test_seeds_are_paired_by_task_network_and_seed_and_not_by_settings():
    assert SPEC.components == ("digits", "timm:resnet18", "mean_field", 4)


def test_the_label_is_the_method_with_what_was_spelled_out():
    assert SPEC.label == "mean_field epochs=12"
    assert label_of("m", {"a": [1, 2], "b": {"c": None}, "d": "x"}) == "m a=[1, 2] b={c: null} d=x"


@pytest.mark.parametrize(
    "spelling",
    [
        "map: {epochs: 20}",
        "map: {preset: recommended}",
        "map: {batch_size: 64, epochs: 20}",
        "map: {epochs: 20, batch_size: 64}",
        "map: {label_smoothing: 0}",
    ],
)
def test_settings_spelled_out_are_the_same_run_as_their_defaults(spelling):
    assert run_of(planned(spelling), "map").id == run_of(planned("map"), "map").id


def test_a_preset_is_the_same_run_as_its_values_spelled_out():
    named = run_of(planned("mean_field: {preset: tempered}"), "mean_field")
    spelled = run_of(planned("mean_field: {kl_temperature: 0.1}"), "mean_field")
    assert named.id == spelled.id
    assert named.label != spelled.label


def test_name_and_description_of_a_study_are_not_part_of_its_runs():
    base = "tasks: digits\nnetworks: mlp-8\nmethods: [map, mean_field]\n"
    one = plan(validate(parse("name: a\n" + base, "s")))
    other = plan(validate(parse("name: b\ndescription: text\nlauncher: local\n" + base, "s")))
    assert list(one.specs) == list(other.specs)


@pytest.mark.parametrize("change", ["protocol: {draws: 3}", "protocol: {budget: 0.5}", "seeds: [1]"])
def test_a_changed_protocol_or_seed_makes_other_runs(change):
    assert not set(planned("[map, mean_field]", change).specs) & set(planned("[map, mean_field]").specs)


def test_changed_data_make_other_runs(monkeypatch):
    before = set(planned("[map, mean_field]").specs)
    monkeypatch.setattr(TASKS.get("digits"), "fingerprint", lambda config: "other", raising=True)
    assert not before & set(planned("[map, mean_field]").specs)


def test_a_raised_version_makes_other_runs_of_it_and_of_what_needs_it(monkeypatch):
    before = planned("[map, mean_field, mc_dropout]")
    monkeypatch.setattr(type(METHODS.get("map")), "version", 99)
    after = planned("[map, mean_field, mc_dropout]")
    assert run_of(before, "map").id != run_of(after, "map").id
    assert run_of(before, "mean_field").id != run_of(after, "mean_field").id
    needs_map = bool(run_of(before, "mc_dropout").needs)
    assert (run_of(before, "mc_dropout").id != run_of(after, "mc_dropout").id) == needs_map

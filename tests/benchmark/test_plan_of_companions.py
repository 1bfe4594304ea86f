"""What a method says while a study is planned: settings that depend on the place, companions, titles, the reference."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from pydantic import Field

from benchmark.config import MethodConfig
from benchmark.contracts import Method, Need, TaskInfo
from benchmark.errors import ConfigError
from benchmark.identity import RunSpec
from benchmark.plan import Plan, plan
from benchmark.registry import METHODS
from benchmark.study import validate
from benchmark.yamlfile import parse


class SizedConfig(MethodConfig):
    kind: str = "auto"
    chains: int = 1


class Sampler(Method):
    """Decides its kind by the number of parameters, and is what others are compared with."""

    name = "sampler"
    Config = SizedConfig
    reference = True
    asked = 0

    def settled(self, config: SizedConfig, task: TaskInfo, network: Callable[[], Any]) -> SizedConfig:
        if config.kind != "auto":
            return config
        type(self).asked += 1
        parameters = list(network().parameters())
        assert all(parameter.is_meta for parameter in parameters)
        size = sum(parameter.numel() for parameter in parameters)
        return config.model_copy(update={"kind": "small" if size < 1000 and task.n_train < 2000 else "large"})

    def title(self, config: SizedConfig, needed: Sequence[Need]) -> str:
        return f"{config.kind}_sampler"

    def fit(self, problem: Any, ctx: Any, config: Any) -> Any:
        raise NotImplementedError

    def posterior_type(self) -> Any:
        raise NotImplementedError


class SummaryConfig(MethodConfig):
    sampling: dict[str, Any] = Field({})


class Control(Sampler):
    name = "control"
    Config = SummaryConfig
    reference = False

    def settled(self, config: Any, task: TaskInfo, network: Any) -> Any:
        return config

    def needs(self, config: SummaryConfig) -> tuple[Need, ...]:
        return (Need("sampler", config.sampling),)

    def title(self, config: Any, needed: Sequence[Need]) -> str:
        return f"{self.name} of {needed[0].config['kind']}"


class Summary(Control):
    name = "summary"

    def companions(self, config: SummaryConfig) -> tuple[Need, ...]:
        return (Need("control", {"sampling": config.sampling}),)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    before = list(METHODS._added), METHODS._found, dict(METHODS._instances)
    for method in (Sampler(), Control(), Summary()):
        METHODS.add(method.name, method, f"test:{method.name}", "a test")
    Sampler.asked = 0
    yield
    METHODS._added, METHODS._found, METHODS._instances = before


def planned(methods: str, rest: str = "", networks: str = "[mlp-8]") -> Plan:
    text = f"name: x\ntasks: digits\nnetworks: {networks}\nmethods: {methods}\n" + textwrap.dedent(rest)
    return plan(validate(parse(text, "study.yaml")))


def rows(found: Plan) -> list[str]:
    return [f"{spec.network.name} {spec.label} s{spec.seed}" for spec in found.rows.values()]


def only(found: Plan, title: str) -> RunSpec:
    [spec] = [spec for spec in found.specs.values() if spec.title == title]
    return spec


def test_what_a_method_settles_is_in_the_identity_and_depends_on_the_network():
    found = planned("sampler", networks="[mlp-8, mlp-64]")
    kinds = {spec.network.name: spec.method.config["kind"] for spec in found.specs.values()}
    assert kinds == {"mlp-8": "small", "mlp-64": "large"}
    spelled_out = planned("{sampler: {kind: small}}")
    assert list(spelled_out.specs) == [key for key, spec in found.specs.items() if spec.network.name == "mlp-8"]


def test_a_method_is_asked_once_per_network_whatever_the_number_of_seeds():
    planned("sampler", "seeds: 5", networks="[mlp-8, mlp-64]")
    assert Sampler.asked == 2


def test_a_needed_run_is_the_one_that_stands_as_a_row_when_both_are_settled_alike():
    found = planned("[sampler, {summary: {sampling: {kind: small}}}]")
    assert only(found, "summary of small").needs == (only(found, "small_sampler").id,)


def test_the_title_replaces_the_name_in_the_label_and_survives_the_file():
    spec = only(planned("{sampler: {chains: 3}}"), "small_sampler")
    assert spec.label == "small_sampler chains=3"
    assert RunSpec.from_json(spec.to_json(), "spec.json") == spec
    older = {name: value for name, value in spec.to_json().items() if name != "title"}
    assert RunSpec.from_json(older, "spec.json").label == "sampler chains=3"


def test_companions_become_rows_of_every_seed():
    found = planned("summary", "seeds: 2")
    assert rows(found) == [
        "mlp-8 summary of small s0",
        "mlp-8 summary of small s1",
        "mlp-8 control of small sampling={} s0",
        "mlp-8 control of small sampling={} s1",
    ]


def test_a_companion_that_is_listed_or_excluded_is_not_doubled():
    assert len(rows(planned("[control, summary]"))) == 2
    found = planned("summary", "exclude: [{method: control}]")
    assert rows(found) == ["mlp-8 summary of small s0"]
    assert [spec.method.name for spec in found.excluded] == ["control"]


def test_a_row_that_is_excluded_brings_no_companions():
    found = planned("[map, summary]", "seeds: 2\nexclude: [{method: summary, seed: 1}]")
    assert [(spec.method.name, spec.seed) for spec in found.rows.values()] == [
        ("map", 0),
        ("map", 1),
        ("summary", 0),
        ("control", 0),
    ]


def test_a_reference_that_was_asked_for_comes_before_one_that_came_along(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Summary, "companions", lambda self, config: (Need("sampler", {"chains": 9}),))
    found = planned("[map, {sampler: {chains: 2}}, summary]")
    assert {found.specs[reference].given.get("chains") for reference in found.references.values()} == {2}


def test_every_row_is_compared_with_the_reference_of_its_own_network_and_seed():
    found = planned("[map, sampler]", "seeds: 2", networks="[mlp-8, mlp-64]")
    assert set(found.references) == set(found.rows)
    for run, reference in found.references.items():
        one, other = found.specs[run], found.specs[reference]
        assert other.method.name == "sampler"
        assert (one.network, one.seed) == (other.network, other.seed)


def test_without_a_reference_among_the_rows_nothing_is_compared():
    assert planned("[map, {control: {sampling: {}}}]").references == {}
    assert planned("[{sampler: {chains: [1, 2]}}]").references == {}, "two are no single standard"


def test_a_companion_can_be_the_reference(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Control, "reference", True)
    monkeypatch.setattr(Summary, "reference", False)
    found = planned("[map, summary]")
    assert {found.specs[reference].method.name for reference in found.references.values()} == {"control"}
    assert len(found.references) == 3


def test_a_study_may_name_its_reference():
    found = planned("[map, {sampler: {chains: [1, 2]}}]", "reference: {sampler: {chains: 2}}")
    assert {found.specs[run].given["chains"] for run in found.references.values()} == {2}


@pytest.mark.parametrize(
    "text", ["mean_field", "{sampler: {chains: 3}}", "[map, sampler]", "{sampler: {chains: [1, 2]}}"]
)
def test_a_reference_that_is_no_single_row_is_refused(text: str):
    with pytest.raises(
        ConfigError, match=r"study\.yaml:5: 'reference' is one of the study's methods .* \(map, sampler\)"
    ):
        planned("[map, {sampler: {chains: [1, 2]}}]", f"reference: {text}")

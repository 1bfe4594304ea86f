"""Finding plugins: lazily, with collisions, broken packages and misspelt names reported."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from benchmark.contracts import Method
from benchmark.errors import ConfigError, PluginError, UnknownNameError
from benchmark.registry import METHODS, NETWORKS, TASKS, Origin, Registry, load_plugin_file

PLUGIN = """
from benchmark import Method, NetworkFamily, Task

class Good(Method):
    name = "good_one"
    def fit(self, problem, ctx, config): raise NotImplementedError
    def posterior_type(self): raise NotImplementedError

Alias = Good
"""


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    kinds = (METHODS, TASKS, NETWORKS)
    before = [(list(kind._added), kind._found, dict(kind._instances)) for kind in kinds]
    yield
    for kind, (added, found, instances) in zip(kinds, before, strict=True):
        kind._added, kind._found, kind._instances = added, found, instances


class Plain(Method):
    name = "plain"

    def fit(self, problem, ctx, config):
        raise NotImplementedError

    def posterior_type(self):
        raise NotImplementedError


def registry(**points: str) -> Registry[Method]:
    """A registry as if packages had declared these entry points."""
    made: Registry[Method] = Registry("method", "bnnbench.none", "benchmark.contracts:Method")
    for name, value in points.items():
        point = EntryPoint(name, value, "bnnbench.none")
        made._added.append(Origin(name, value, "some-package 1.0", entry_point=point))
    return made


def test_listing_and_planning_modules_import_no_plugin_and_nothing_heavy():
    code = """
        import json, sys
        from benchmark.registry import METHODS, NETWORKS, TASKS
        names = [kind.names() for kind in (METHODS, TASKS, NETWORKS)]
        heavy = [m for m in ("torch", "numpy", "pydantic", "methods", "tasks", "slurm") if m in sys.modules]
        print(json.dumps([names, heavy]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    (methods, tasks, networks), heavy = json.loads(done.stdout)
    assert heavy == []
    assert {"map", "mean_field"} <= set(methods)
    assert {"digits"} <= set(tasks)
    assert {"wrn", "resnet20"} <= set(networks)
    assert methods == sorted(methods)


def test_a_plugin_is_imported_when_it_is_first_asked_for_and_made_once(tmp_path, monkeypatch):
    (tmp_path / "lazy_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    made = registry(good_one="lazy_plugin:Good")
    assert made.names() == ["good_one"]
    assert "lazy_plugin" not in sys.modules
    assert made.get("good_one") is made.get("good_one")
    assert "lazy_plugin" in sys.modules


def test_an_unknown_name_is_reported_with_the_nearest_and_the_legal_ones():
    with pytest.raises(
        UnknownNameError, match=r"method 'mean_feild' is unknown\. Did you mean 'mean_field'\?\n  legal: "
    ):
        METHODS.get("mean_feild")


def test_two_claims_to_one_name_are_an_error_that_names_both_and_leaves_the_others_usable():
    made = registry(plain="somewhere:Plain")
    made.add("plain", Plain, "here.py:Plain")
    made.add("other", type("Other", (Plain,), {"name": "other"}), "here.py:Other")
    with pytest.raises(
        PluginError, match=r"registered twice, by somewhere:Plain \(some-package 1.0\) and here.py:Plain"
    ):
        made.get("plain")
    assert made.get("other").name == "other"
    assert len(made.origins()["plain"]) == 2


def test_a_second_claim_to_a_name_in_use_is_an_error_too():
    METHODS.get("map")
    METHODS.add("map", type("Map", (Plain,), {"name": "map"}), "mine.py:Map")
    with pytest.raises(PluginError, match=r"method 'map' is registered twice, by methods.map:Map .* and mine.py:Map"):
        METHODS.get("map")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_package_at_all", "No module named 'no_such_package_at_all'"),
        ("raise SystemExit('I want out')", "I want out"),
        ("def broken(:", "SyntaxError"),
        ("Good = 1 / 0", "ZeroDivisionError"),
        ("class Good:\n    def __init__(self): raise RuntimeError('not today')", "not today"),
        ("other = 3", "has no attribute 'Good'"),
    ],
)
def test_a_broken_plugin_is_reported_with_its_traceback_and_breaks_nothing_else(tmp_path, monkeypatch, source, reason):
    (tmp_path / "broken_plugin.py").write_text(source + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_plugin", raising=False)
    made = registry(good_one="broken_plugin:Good", map="methods.map:Map")
    with pytest.raises(PluginError) as raised:
        made.get("good_one")
    sys.modules.pop("broken_plugin", None)
    message = str(raised.value)
    assert "method 'good_one' from broken_plugin:Good (some-package 1.0) cannot be loaded:\nTraceback" in message
    assert reason in message
    assert raised.value.exit_code == 3
    assert made.get("map").name == "map"


def test_something_of_another_kind_is_refused():
    made = registry(path="pathlib:Path")
    with pytest.raises(PluginError, match=r"method 'path' from pathlib:Path .* is a PosixPath, not a Method"):
        made.get("path")


def test_a_plugin_that_calls_itself_otherwise_is_refused():
    made = registry(mapp="methods.map:Map")
    with pytest.raises(PluginError, match=r"method 'mapp' .* calls itself 'map'; the two names must agree"):
        made.get("mapp")


def test_an_abstract_plugin_is_refused_with_what_is_missing():
    made = registry()
    made.add("half", type("Half", (Method,), {"name": "half"}), "here.py:Half")
    with pytest.raises(PluginError, match="abstract class Half"):
        made.get("half")


def families(*names: str) -> Registry[Method]:
    made = registry()
    for name in names:
        made.add(name, type(name, (Plain,), {"name": name}), f"here.py:{name}")
    return made


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("wrn-16-4", "wrn"),
        ("wrn", "wrn"),
        ("timm:vit-tiny", "timm"),
        ("timm:wrn-3", "timm"),
        ("deit-micro", "deit-micro"),
        ("deit-micro-2", "deit-micro"),
        ("deit-small", "deit"),
        ("wrn-odd-3", "wrn-odd"),
    ],
)
def test_the_family_of_a_network_is_the_longest_registered_prefix(name, family):
    made = families("wrn", "wrn-odd", "timm", "deit", "deit-micro")
    assert made.family(name) == (family, made.get(family))


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("wnr-16-4", "wrn-16-4"), ("tim:vit-tiny", "timm:vit-tiny"), ("wrnn", "wrn"), ("wrn16-4", "wrn-4")],
)
def test_a_misspelt_family_is_suggested_with_the_rest_of_the_name(name, suggestion):
    with pytest.raises(
        UnknownNameError, match=f"'{name}' is unknown. Did you mean '{suggestion}'.*\n  legal: timm, wrn$"
    ):
        families("wrn", "timm").family(name)


def test_a_prefix_that_does_not_end_at_a_separator_is_no_family():
    with pytest.raises(UnknownNameError):
        families("wrn").family("wrnx-16-4")


# -- plugin files -------------------------------------------------------------------------------------------------


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_plugin_file_registers_each_class_once_whatever_its_aliases(tmp_path):
    path = written(tmp_path / "mine.py", PLUGIN)
    load_plugin_file(path)
    load_plugin_file(path)
    assert METHODS.get("good_one").name == "good_one"
    (origin,) = METHODS.origins()["good_one"]
    assert str(origin) == f"{path}:Good (--plugin)"


def test_a_plugin_file_with_a_built_in_name_is_a_collision(tmp_path):
    load_plugin_file(written(tmp_path / "mine.py", PLUGIN.replace("good_one", "map")))
    with pytest.raises(PluginError, match=r"registered twice, by methods\.map:Map \(bnnbench .*\) and .*mine\.py:Good"):
        METHODS.get("map")


def test_a_missing_plugin_file_is_reported_with_its_near_neighbour(tmp_path):
    written(tmp_path / "my_method.py", PLUGIN)
    with pytest.raises(ConfigError, match=r"no such file\. Did you mean 'my_method\.py'"):
        load_plugin_file(tmp_path / "my_methd.py")
    with pytest.raises(ConfigError, match=r"no such file\.$"):
        load_plugin_file(tmp_path / "quite_another.py")


@pytest.mark.parametrize(
    ("source", "reason"),
    [("1 / 0", "ZeroDivisionError"), ("raise SystemExit(3)", "SystemExit"), ("def (", "SyntaxError")],
)
def test_a_plugin_file_that_raises_is_reported_with_its_traceback_and_leaves_nothing_behind(tmp_path, source, reason):
    modules = set(sys.modules)
    with pytest.raises(PluginError, match=rf"--plugin .*bad\.py cannot be imported:\nTraceback[\s\S]*{reason}"):
        load_plugin_file(written(tmp_path / "bad.py", source))
    assert set(sys.modules) - modules == set()


@pytest.mark.parametrize(
    "source",
    [
        "x = 1",
        "from methods.map import Map",
        "from benchmark import Method\nclass Nameless(Method): pass",
        "class NoPlugin:\n    name = 'x'",
    ],
)
def test_a_plugin_file_that_defines_no_plugin_of_its_own_is_refused(tmp_path, source):
    with pytest.raises(ConfigError, match="defines no Method, Task or NetworkFamily with a `name`"):
        load_plugin_file(written(tmp_path / "none.py", source))


def test_a_plugin_file_must_be_a_python_file(tmp_path):
    with pytest.raises(ConfigError, match=r"not a Python file \(expected a name that ends in \.py\)"):
        load_plugin_file(written(tmp_path / "plugin.txt", PLUGIN))


def test_the_code_digest_of_a_plugin_file_is_equal_in_every_process(tmp_path):
    path = written(tmp_path / "mine.py", PLUGIN)
    code = f"""
        from benchmark.provenance import run_code_digest
        from benchmark.registry import load_plugin_file
        load_plugin_file({str(path)!r})
        print(run_code_digest("digits", "mlp-8", "good_one"))
    """
    digests = [
        subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert len(digests[0].strip()) == 16
    assert digests[0] == digests[1]

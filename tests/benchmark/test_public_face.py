"""`import benchmark`: what a plugin author sees, and what it costs."""

from __future__ import annotations

import ast
import json
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import benchmark


def test_every_public_name_resolves_to_what_its_module_holds():
    for name in benchmark.__all__:
        first = getattr(benchmark, name)
        home = import_module(benchmark._MODULE_OF[name])
        assert getattr(home, name) is first
        assert getattr(benchmark, name) is first


def test_no_public_name_is_that_of_a_module_which_would_take_its_place_when_imported():
    modules = {module.name for module in pkgutil.iter_modules(benchmark.__path__)}
    assert set(benchmark.__all__) & modules == set()


def test_the_public_names_are_the_lazy_ones_sorted_and_each_once():
    assert sorted(benchmark.__all__) == sorted(benchmark._MODULE_OF)
    assert len(benchmark.__all__) == len(set(benchmark.__all__))
    assert sum(map(len, benchmark._HOME.values())) == len(benchmark._MODULE_OF)
    assert dir(benchmark) == sorted(benchmark.__all__)


def test_type_checkers_are_shown_the_same_names():
    tree = ast.parse(Path(str(benchmark.__file__)).read_text())
    (guard,) = (node for node in tree.body if isinstance(node, ast.If))
    shown = {alias.name: node.module for node in guard.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert shown == benchmark._MODULE_OF


def test_an_absent_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'benchmark' has no attribute 'Methods'"):
        benchmark.Methods  # noqa: B018


@pytest.mark.parametrize(
    "names", ["", "Method, MethodConfig, Need, NetworkFamily, Task, TaskInfo, ConfigError, unknown"]
)
def test_importing_what_declares_a_plugin_imports_nothing_heavy(names):
    statement = f"from benchmark import {names}" if names else "import benchmark"
    code = f"{statement}; import json, sys; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pandas", "scipy", "safetensors"} & set(json.loads(done.stdout))

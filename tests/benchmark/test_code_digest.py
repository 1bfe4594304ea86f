"""The digest of a run's code: it changes with what the run executes, and with nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.provenance import environment

FILES = {
    "__init__.py": "",
    "a/__init__.py": "from .fit import train",
    "a/fit.py": "from ..shared import helper\n\ndef train():\n    import pkg_under_test.deferred",
    "a/unused.py": "",
    "b/__init__.py": "",
    "b/only.py": "",
    "shared.py": "from . import constants",
    "constants.py": "X = 1",
    "deferred.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pkg_under_test.deep.er import Y",
    "deep/__init__.py": "",
    "deep/er.py": "Y = 2",
    "other_family.py": "import pkg_under_test.a",
}


@pytest.fixture
def digest(tmp_path) -> Callable[..., str]:
    """The digest of modules of a package on the path, in a process of its own, after some files were changed."""
    package = tmp_path / "pkg_under_test"
    for name, text in FILES.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    (tmp_path / "single_file_plugin.py").write_text("from pkg_under_test import shared")

    def run(*modules: str, **changed: str) -> str:
        for name, text in changed.items():
            (tmp_path / name).write_text(text)
        code = f"""
            import sys
            from benchmark.provenance import code_digest
            print(code_digest({modules!r}))
            assert not [m for m in sys.modules if m.startswith(("pkg_under", "single"))]
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONHASHSEED": str(len(changed))},
        )
        return done.stdout.strip()

    return run


CHANGED_BY = (
    "pkg_under_test/__init__.py",
    "pkg_under_test/a/__init__.py",
    "pkg_under_test/a/fit.py",
    "pkg_under_test/shared.py",
    "pkg_under_test/constants.py",
    "pkg_under_test/deferred.py",
    "pkg_under_test/deep/__init__.py",
    "pkg_under_test/deep/er.py",
)
UNCHANGED_BY = ("a/unused.py", "b/__init__.py", "b/only.py", "other_family.py", "new_file.py")


def test_it_changes_with_every_file_that_is_imported_directly_or_not(digest, tmp_path):
    seen = [digest("pkg_under_test.a")]
    for name in CHANGED_BY:
        seen.append(digest("pkg_under_test.a", **{name: (tmp_path / name).read_text() + "\n# changed\n"}))
    assert len(set(seen)) == 1 + len(CHANGED_BY)
    assert all(len(found) == 16 for found in seen)


def test_it_does_not_change_with_files_that_are_not_imported(digest):
    before = digest("pkg_under_test.a")
    assert digest("pkg_under_test.a", **{f"pkg_under_test/{name}": "changed = 1" for name in UNCHANGED_BY}) == before


def test_a_submodule_executes_the_packages_around_it(digest):
    before = digest("pkg_under_test.b.only")
    assert digest("pkg_under_test.b.only", **{"pkg_under_test/b/__init__.py": "x = 1"}) != before


def test_a_plugin_of_one_file_counts(digest):
    before = digest("single_file_plugin")
    assert digest("single_file_plugin", **{"single_file_plugin.py": "x = 1"}) != before


def test_a_package_without_source_adds_nothing(digest):
    assert digest("pkg_under_test.a", "no_such_package.at_all", "math") == digest("pkg_under_test.a")


def test_the_code_of_a_run_holds_its_worker_and_plugins_and_no_other_method():
    from benchmark.provenance import _closure
    from benchmark.registry import METHODS, NETWORKS, TASKS

    plugins = (TASKS.get("digits"), NETWORKS.family("mlp-8")[1], METHODS.get("map"))
    found = set(_closure(frozenset({"benchmark.worker", *(type(plugin).__module__ for plugin in plugins)})))
    assert {
        "benchmark.worker",
        "benchmark.predict",
        "benchmark.checkpoint",
        "benchmark.compression.writer",
        "methods.map.fit",
        "methods.map.config",
        "tasks.digits",
        "tasks.networks.mlp",
    } <= found
    outsiders = ("methods.mean_field", "benchmark.cli", "benchmark.leaderboard", "benchmark.launch", "slurm")
    assert [name for name in found if name.startswith(outsiders)] == []


def test_the_environment_is_plain_json_and_names_the_packages():
    import json

    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["pid"] == os.getpid()
    assert found["packages"]["bnnbench"] != "absent"
    assert found["packages"]["torch"] != "absent"
    assert found["cores"] >= 1
    assert Path("/proc/cpuinfo").exists() is False or found["processor"]

"""The verbs as a user types them: help, JSON, exit codes, errors in a paragraph, and nothing written by looking."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli.main import VERBS, main
from benchmark.store import Store

PLUGIN = Path(__file__).parents[1] / "reliability" / "plugins" / "tiny.py"
STUDY = ["--task", "tiny", "--network", "tinynet", "--draws", "4", "--method", "tiny_base"]
INLINE = ["--launcher", "inline: {latency: 'off'}"]
PROGRAM = str(Path(sys.executable).with_name("bnnbench"))


class Shell:
    """Calls `bnnbench` in this process; the exit code and what was printed."""

    def __init__(self, capfd: pytest.CaptureFixture[str], results: Path) -> None:
        self._capfd, self.results = capfd, results
        self.store = Store(results)

    def __call__(self, *arguments: str, plugin: bool = True) -> tuple[int, str, str]:
        extra = ["--plugin", str(PLUGIN)] if plugin else []
        self._capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*arguments, *extra])
        out, err = self._capfd.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), out, err


@pytest.fixture
def shell(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    results = tmp_path / "results"
    monkeypatch.setenv("BNNBENCH_RESULTS", str(results))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TINY_BASE_FAILS", raising=False)
    return Shell(capfd, results)


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_has_examples(shell: Shell, verb: str) -> None:
    code, out, _ = shell(verb, "--help", plugin=False)
    assert code == 0
    assert "Examples:" in out
    assert f"bnnbench {verb}" in out


def test_the_json_of_every_verb_parses(shell: Shell) -> None:
    calls: dict[str, list[str]] = {
        "list": [],
        "plan": STUDY,
        "run": [*STUDY, *INLINE],
        "status": [],
        "logs": ["tiny"],
        "retry": ["--failed", *INLINE],
        "leaderboard": STUDY,
        "rescore": ["--all"],
    }
    assert set(calls) >= set(VERBS) & set(calls)
    for verb, arguments in calls.items():
        plugin = verb not in ("logs",)
        code, out, err = shell(verb, *arguments, "--json", plugin=plugin)
        assert (verb, code) == (verb, 0), err
        json.loads(out)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["rnu"], 2, ["verb 'rnu' is unknown", "Did you mean 'run'", "legal:"]),
        (["run", "quikc"], 2, ["study 'quikc' is unknown", "Did you mean 'quick'"]),
        (["run", "absent.yaml"], 2, ["study 'absent.yaml'", "no such file"]),
        (["run"], 2, ["name a study"]),
        (["run", *STUDY[:-1], "tiny_bsae"], 2, ["method 'tiny_bsae' is unknown", "Did you mean 'tiny_base'"]),
        (["run", *STUDY, "--seeds", "none"], 2, ["'seeds'", "'none'"]),
        (["run", *STUDY, "--workers", "many"], 2, ["--workers", "many"]),
        (["run", *STUDY, "--threads", "0", *INLINE], 2, ["threads = 0"]),
        (["run", *STUDY, "--launcher", "inlien"], 2, ["launcher 'inlien' is unknown", "Did you mean 'inline'"]),
        (["run", *STUDY, "--launcher", "inline: {latncy: x}"], 2, ["setting 'latncy' is unknown", "'latency'"]),
        (["run", *STUDY, "--rerun", "stael"], 2, ["stael", "stale"]),
        (["run", *STUDY, "--results", "/proc/nowhere"], 3, ["/proc/nowhere", "cannot be created"]),
        (["run", *STUDY, "--plugin", "absent.py"], 2, ["absent.py", "no such file"]),
        (["logs", "tyni"], 2, ["no run", "matches 'tyni'"]),
        (["retry", "tyni"], 2, ["no run", "matches 'tyni'"]),
        (["retry"], 2, ["name the runs to retry, or give --failed"]),
        (["rescore", "tyni"], 2, ["no run", "matches 'tyni'"]),
        (["list", "mehtods"], 2, ["kind 'mehtods' is unknown", "Did you mean 'methods'"]),
    ],
)
def test_wrong_input_gets_a_paragraph(shell: Shell, arguments: list[str], code: int, words: list[str]) -> None:
    found, out, err = shell(*arguments, plugin=arguments[0] == "run" and "absent.py" not in arguments)
    assert found == code, out + err
    for word in words:
        assert word in err
    assert "Traceback" not in out + err
    assert len(err.splitlines()) < 12
    if code == 2 and arguments[0] == "run":
        assert not shell.results.exists(), "nothing is half-done"


def test_a_results_folder_below_a_file_is_an_environment_problem(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, _, err = shell("run", *STUDY, *INLINE, "--results", str(tmp_path / "file" / "results"))
    assert code == 3
    assert "cannot be created" in err


def test_looking_writes_nothing(shell: Shell, tmp_path: Path) -> None:
    looks = (["list"], ["plan", *STUDY], ["plan", *STUDY, "--runs"], ["status"], ["status", *STUDY])
    for look in looks:
        assert shell(*look)[0] == 0
    assert list(tmp_path.iterdir()) == []
    assert shell("run", *STUDY, *INLINE)[0] == 0
    before = snapshot(tmp_path)
    for look in (*looks, ["logs", "tiny"]):
        assert shell(*look, plugin=look[0] != "logs")[0] == 0
    assert snapshot(tmp_path) == before


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*")
    }


def test_a_second_run_runs_nothing(shell: Shell, tmp_path: Path) -> None:
    assert shell("run", *STUDY, *INLINE)[0] == 0
    before = snapshot(shell.store.runs / shell.store.ids()[0])
    code, out, _ = shell("run", *STUDY, *INLINE, "--json")
    assert (code, json.loads(out)["ran"]) == (0, 0)
    assert snapshot(shell.store.runs / shell.store.ids()[0]) == before


def test_rescore_gives_the_same_digits(shell: Shell) -> None:
    assert shell("run", *STUDY, *INLINE)[0] == 0
    run = shell.store.folder(shell.store.ids()[0])
    before = run.file("result.json").read_bytes()
    assert "unchanged" in shell("rescore", "--all")[1]
    assert run.file("result.json").read_bytes() == before
    run.file("result.json").unlink()
    assert shell("status")[0] == 1
    assert "mended" in shell("rescore", "tiny")[1]
    assert run.state().name == "ok"


@pytest.mark.parametrize("what", ["stale", "failed", "all"])
def test_rerun_takes_up_what_it_names(shell: Shell, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Three seeds: one done, one stale, one failed."""
    assert shell("run", *STUDY, "--seeds", "2", *INLINE)[0] == 0
    runs = [shell.store.folder(name) for name in shell.store.ids()]
    result = runs[1].result()
    assert result is not None
    runs[1].publish({**{key: value for key, value in result.items() if key != "digest"}, "code": "other code"})
    monkeypatch.setenv("TINY_BASE_FAILS", "1")
    assert shell("run", *STUDY, "--seeds", "3", *INLINE)[0] == 1
    monkeypatch.delenv("TINY_BASE_FAILS")
    expected = {"stale": [1, 2, 1], "failed": [1, 1, 2], "all": [2, 2, 2]}[what]
    code, out, _ = shell("run", *STUDY, "--seeds", "3", *INLINE, "--rerun", what, "--json")
    assert code == (1 if what == "stale" else 0)
    ids = shell.store.ids()
    assert [len(shell.store.folder(name).attempts()) for name in ids] == expected
    assert json.loads(out)["ran"] == sum(expected) - 3


def test_output_into_head_ends_quietly(tmp_path: Path) -> None:
    command = f"{PROGRAM} list --origin --json | head -n 1; exit ${{PIPESTATUS[0]}}"
    for _ in range(2):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
        assert done.stdout == "{\n"
        assert done.stderr == ""
        assert done.returncode in (0, 141)


def test_a_closed_reader_ends_the_command_quietly(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done: Any = subprocess.run([PROGRAM, "list"], stdout=writer, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    os.close(writer)
    assert done.returncode in (1, 141)
    assert done.stderr == ""

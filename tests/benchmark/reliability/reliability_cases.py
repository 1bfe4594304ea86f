"""Tiny runs in processes of their own, which a test can stop at named points and kill."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.cli.main import main
from benchmark.operation import Operation
from benchmark.plan import plan
from benchmark.registry import load_plugin_file
from benchmark.runfolder import RunFolder
from benchmark.store import Store
from benchmark.study import study_from_flags
from benchmark.worker import work

PLUGIN = Path(__file__).parent / "plugins" / "tiny.py"
WAIT_SECONDS = 60.0


def wait_for(condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """The first true value of `condition`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.005)
    return value


def specs_of(*methods: Any, seeds: Any = 1) -> list[Any]:
    """The runs of a study on the tiny task, needs first."""
    load_plugin_file(PLUGIN)
    entries = {"tasks": ["tiny"], "networks": ["tinynet"], "methods": list(methods) or ["tiny_sgd"], "seeds": seeds}
    return list(plan(study_from_flags({**entries, "protocol": {"draws": 4}})).specs.values())


@dataclass
class Bench:
    """A results folder with the points where its processes are to wait."""

    root: Path
    pause: Path = field(init=False)
    processes: list[Child] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pause = self.root / "pause"
        self.pause.mkdir(parents=True, exist_ok=True)
        self.store = Store(self.root / "results")

    @property
    def mended(self) -> Path:
        """The file that makes every method behave."""
        return self.root / "mended"

    def env(self) -> dict[str, str]:
        return {"TINY_PAUSE": str(self.pause), "TINY_MENDED": str(self.mended)}

    def folder(self, spec: Any, **operation: Any) -> RunFolder:
        """The run's folder, made and handed over as a launcher does it."""
        run = self.store.folder(spec.id)
        run.create(spec)
        settings = {"checkpoint_seconds": 0, "latency": "off", "device": "cpu", "plugins": (str(PLUGIN),)}
        Operation(**{**settings, **operation}).hand_over(run)
        return run

    def ask(self, point: str) -> None:
        """Let the next process that comes to `point` wait there."""
        (self.pause / f"{point}.ask").touch()

    def at(self, point: str) -> int:
        """Wait until a process is at `point`; its number."""
        here = self.pause / f"{point}.here"
        wait_for(here.exists, f"a process at '{point}'")
        return int(here.read_text())

    def go_on(self, point: str) -> None:
        """Let the process at `point` continue."""
        (self.pause / f"{point}.here").unlink()

    def worker(self, run: RunFolder, patch: Callable[[], None] | None = None) -> Child:
        """A worker of the run, in a process of its own."""

        def body() -> int:
            if patch is not None:
                patch()
            return work(str(run.path))

        return self.child(body)

    def launch(self, *flags: str, output: Path | None = None, env: Mapping[str, str] | None = None) -> Child:
        """`bnnbench ...` in a process of its own, in a session of its own."""
        return self.child(lambda: run_main(self.arguments(flags)), output=output, env=env)

    def arguments(self, flags: Iterable[str]) -> list[str]:
        return [*flags, "--plugin", str(PLUGIN), "--results", str(self.store.root)]

    def child(self, body: Callable[[], int], output: Path | None = None, env: Mapping[str, str] | None = None) -> Child:
        child = Child.fork(body, {**self.env(), **(env or {})}, output or self.root / "console.txt")
        self.processes.append(child)
        return child

    def end(self) -> None:
        """Kill whatever a failed test left behind."""
        for process in self.processes:
            process.end()
        for attempt in self.store.runs.glob("*/attempts/*/heartbeat"):
            with contextlib.suppress(OSError, KeyError, ValueError):
                beat = json.loads(attempt.read_text())
                if beat["pid"] != os.getpid() and RunFolder(attempt.parents[2]).state().name == "running":
                    os.kill(beat["pid"], signal.SIGKILL)


@dataclass
class Child:
    """A forked process of the test."""

    pid: int
    status: int | None = None

    @classmethod
    def fork(cls, body: Callable[[], int], env: Mapping[str, str], output: Path) -> Child:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            return cls(pid)
        code = 98
        try:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.environ.update(env)
            console = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(console, 1)
            os.dup2(console, 2)
            sys.stdout = open(1, "w", closefd=False, buffering=1, encoding="utf-8")  # noqa: SIM115
            sys.stderr = open(2, "w", closefd=False, buffering=1, encoding="utf-8")  # noqa: SIM115
            code = body()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def join(self, seconds: float = WAIT_SECONDS) -> int:
        """Its exit status; minus the signal's number when it was killed."""
        wait_for(self._ended, f"process {self.pid} to end", seconds)
        assert self.status is not None
        return os.waitstatus_to_exitcode(self.status)

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Send a signal and wait for the end."""
        os.kill(self.pid, number)
        return self.join()

    def end(self) -> None:
        if not self._ended():
            os.kill(self.pid, signal.SIGKILL)
            self.join()

    def _ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
        return self.status is not None


def run_main(arguments: list[str]) -> int:
    """The exit code of `bnnbench ARGUMENTS`."""
    try:
        main(arguments)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 0
    raise AssertionError("main always exits")


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def numbers_of(run: RunFolder) -> dict[str, Any]:
    """What must be the same however often a run was interrupted: bytes, arrays, history, metrics that are no times."""
    result = run.result()
    assert result is not None, run.state()
    timed = ("train_seconds", "device_hours", "peak_memory", "latency_ms")
    with np.load(run.file("predictions.npz"), allow_pickle=False) as archive:
        arrays = {name: (archive[name].dtype.str, archive[name].tobytes()) for name in sorted(archive.files)}
    history = run.file("history.jsonl")
    return {
        "posterior": run.file("posterior.bin").read_bytes(),
        "predictions": arrays,
        "history": history.read_bytes() if history.exists() else b"",
        "metrics": {name: value for name, value in result["metrics"].items() if name not in timed},
        "facts": result["facts"],
    }


def files_of(run: RunFolder) -> list[str]:
    """Every file below the run's folder."""
    return sorted(str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file())


def outcomes(run: RunFolder) -> list[str]:
    """How each attempt ended; '-' for one that was killed."""
    found = []
    for attempt in run.attempts():
        path = attempt / "outcome.json"
        found.append(json.loads(path.read_text())["status"] if path.exists() else "-")
    return found

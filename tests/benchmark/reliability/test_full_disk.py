"""No room: a clear message, nothing half-written, and the run goes on when there is room again."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reliability_cases import Bench, numbers_of, specs_of

FLAGS = ["--task", "tiny", "--network", "tinynet", "--draws", "4", "--method", "tiny_sgd"]
ROOM_BYTES = 40 * 1024  # for an attempt and its first checkpoint; not for the run
INLINE = ["--launcher", "inline: {latency: 'off', checkpoint_seconds: 0}"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs privileges; the test of file sizes covers the same code")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_reported_and_survived(small_disk: Path, undisturbed: dict[str, Any]) -> None:
    bench = Bench(small_disk)
    bench.pause.rmdir()
    run = bench.folder(specs_of()[0])
    console = small_disk.parent / "console.txt"
    filler = small_disk / "filler"
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    filler.write_bytes(b"\0" * (free - ROOM_BYTES))
    child = bench.child(lambda: launched(bench), output=console)
    assert child.join() == 1
    assert not run.file("result.json").exists()
    assert run.state().name in ("failed", "lost")
    assert "No room to write" in console.read_text()
    assert "Traceback" not in console.read_text()
    filler.unlink()
    assert bench.child(lambda: launched(bench), output=console).join() == 0
    assert numbers_of(run) == undisturbed
    bench.end()


def launched(bench: Bench) -> int:
    from reliability_cases import run_main

    return run_main(bench.arguments(["run", *FLAGS, *INLINE]))


@pytest.mark.parametrize("limit", [64, 600])
def test_a_phase_that_cannot_write_is_retriable_and_names_the_file(
    bench: Bench, undisturbed: dict[str, Any], limit: int
) -> None:
    """A limit on file sizes acts like a full disk for the checkpoints (and, when tiny, for the record of the end)."""
    run = bench.folder(specs_of()[0])

    def patch() -> None:
        from benchmark import phases

        fit = phases.fit

        def cramped(*arguments: Any) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            fit(*arguments)

        phases.fit = cramped  # type: ignore[assignment]

    assert bench.worker(run, patch).join() == 1
    state = run.state()
    assert (state.name, state.detail["type"], state.retriable) == ("failed", "EnvironmentProblem", True)
    assert not list(run.path.glob("checkpoint/*.safetensors"))
    assert bench.worker(run).join() == 0
    assert numbers_of(run) == undisturbed

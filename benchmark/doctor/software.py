"""Python, bnnbench itself, and its plugins."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.doctor.finding import Finding
from benchmark.errors import BenchError

OLDEST_PYTHON = (3, 11)


def python(_results: Path) -> Iterator[Finding]:
    """Its version, and whether it is 64 bit."""
    text = f"{platform.python_version()}  {sys.executable}"
    if sys.version_info < OLDEST_PYTHON:
        yield Finding("python", "missing", text, "install Python 3.11 or newer: make PYTHON=python3.12 setup")
    elif sys.maxsize < 2**32:
        yield Finding("python", "missing", f"{text}, 32 bit", "install a 64 bit Python: torch has no other")
    else:
        yield Finding("python", "well", text)


def bnnbench(_results: Path) -> Iterator[Finding]:
    """Whether it is installed with its entry points, and where its code is."""
    here = Path(__file__).parents[1]
    try:
        installed = importlib.metadata.distribution("bnnbench")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("bnnbench", "missing", f"the code in {here} is not installed", "pip install -e . in its folder")
        return
    yield Finding("bnnbench", "well", f"{installed.version}  {here}")


def plugins(_results: Path) -> Iterator[Finding]:
    """Every registered method, task, network and launcher is loaded: one line each for those that fail."""
    from benchmark.launch.launcher import LAUNCHERS
    from benchmark.registry import METHODS, NETWORKS, TASKS

    registries: tuple[Any, ...] = (METHODS, TASKS, NETWORKS, LAUNCHERS)
    loaded = []
    for registry in registries:
        broken = 0
        for name, origins in registry.origins().items():
            try:
                registry.get(name)
            except BenchError as error:
                broken += 1
                package = origins[0].package.split()[0]
                mend = "mend the file, or leave it out" if package == "--plugin" else f"pip install -U {package}"
                last = str(error).strip().splitlines()[-1]
                yield Finding("plugins", "missing", f"{registry.kind} '{name}' from {origins[0]}: {last}", mend)
        number = len(registry.names()) - broken
        loaded.append(f"{number} {registry.kind}{'' if number == 1 else 's'}")
    if not METHODS.names() or not TASKS.names():
        mend = "install bnnbench again: pip install -e . in its folder"
        yield Finding("plugins", "missing", "no method or no task is registered: the entry points are absent", mend)
    yield Finding("plugins", "well", ", ".join(loaded))

"""What code, packages and hardware produced a number."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PACKAGES = ("bnnbench", "torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "constriction", "safetensors")


def code_digest(modules: Iterable[str]) -> str:
    """A digest of the source of `modules` and of everything they import, directly or not, from their own top-level
    packages and from `benchmark`.

    A change to another method, to a table or to the command line leaves the digest of a run alone; a change to what
    the run executes does not.
    """
    digest = hashlib.sha256()
    for name, content in sorted(_closure(frozenset(modules)).items()):
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()[:16]


@functools.cache
def run_code_digest(task: str, network: str, method: str) -> str:
    """The code digest of a run: the worker, and the plugins behind its task, network and method."""
    from benchmark.registry import METHODS, NETWORKS, TASKS

    plugins = (TASKS.get(task), NETWORKS.family(network)[1], METHODS.get(method))
    return code_digest({"benchmark.worker", *(type(plugin).__module__ for plugin in plugins)})


@functools.cache
def _closure(modules: frozenset[str]) -> dict[str, str]:
    roots = {name.split(".")[0] for name in modules} | {"benchmark"}
    found: dict[str, str] = {}
    queue = list(modules)
    while queue:
        name = queue.pop()
        if name in found:
            continue
        if "." in name:
            queue.append(name.rpartition(".")[0])  # importing a.b.c runs a and a.b
        source = _source(name)
        if source is None:
            continue
        found[name], imported = source
        queue += [other for other in imported if other.split(".")[0] in roots]
    return found


@functools.cache
def _source(module: str) -> tuple[str, tuple[str, ...]] | None:
    """The digest of a module's file and the modules it may import; None when `module` has no source file."""
    path = _path_of(module)
    if path is None:
        return None
    data = path.read_bytes()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return hashlib.sha256(data).hexdigest(), tuple(_imports(ast.parse(data), package))


def _path_of(module: str) -> Path | None:
    loaded = sys.modules.get(module)
    if loaded is not None and getattr(loaded, "__file__", None):
        path = Path(str(loaded.__file__))
        return path if path.suffix == ".py" and path.is_file() else None
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is not None and not rest and str(spec.origin).endswith(".py"):
        return Path(str(spec.origin))
    for location in (spec.submodule_search_locations or []) if spec else []:
        base = Path(location, *rest)
        for path in (base.with_suffix(".py") if rest else base / "__init__.py", base / "__init__.py"):
            if path.is_file():
                return path
    return None


def _imports(tree: ast.Module, package: str) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = package.rsplit(".", node.level - 1)[0] + "." if node.level else ""
            base = (prefix + (node.module or "")).rstrip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def environment() -> dict[str, Any]:
    """Host, processor, Python and package versions of this process, as plain JSON types."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


@functools.cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


@functools.cache
def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as handle:
            for line in handle:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

"""The packages that bnnbench requires: there, new enough, importable; torch and its GPUs; the optional extras."""

from __future__ import annotations

import importlib.metadata
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from benchmark.doctor.finding import Finding

MODULES = {"pyro-ppl": "pyro", "scikit-learn": "sklearn", "pyyaml": "yaml"}
"""Where the module has another name than the package."""
NOT_FOR_USERS = ("test", "benchmarks")
GIB = 2**30
IMPORT_SECONDS = 60.0


def packages(_results: Path) -> Iterator[Finding]:
    """Every requirement in turn, torch first; then what torch says about GPUs, where it stands."""
    wanted: dict[str, str] = {}
    for requirement in _requirements():
        if (lacking := _lacking(requirement)) is not None:
            yield lacking
        else:
            wanted[MODULES.get(requirement.name.lower(), requirement.name.replace("-", "_"))] = requirement.name
    order = sorted(wanted, key=lambda module: (module != "torch", module))
    for line in probed(order):
        if "imported" in line:
            name = wanted[line["imported"]]
            yield Finding(name, "well", importlib.metadata.version(name))
        elif "failed" in line:
            name = wanted[line["failed"]]
            text = f"{importlib.metadata.version(name)} cannot be imported: {line['error']}"
            yield Finding(name, "missing", text, f"pip install --force-reinstall {name}")
        elif "cuda" in line:
            yield from gpus(line["cuda"])


def extras(_results: Path) -> Iterator[Finding]:
    """The optional packages, and how to install them."""
    for extra, requirements in _extras().items():
        for requirement in requirements:
            lacking = _lacking(requirement)
            if lacking is None:
                version = importlib.metadata.version(requirement.name)
                yield Finding(requirement.name, "well", f"{version} (extra '{extra}')")
            else:
                text = f"{lacking.text}; optional, extra '{extra}'"
                yield Finding(requirement.name, "optional", text, f"pip install 'bnnbench[{extra}]'")


def gpus(cuda: Mapping[str, Any]) -> Iterator[Finding]:
    """The findings about CUDA, from what the probe told."""
    build, driver = cuda["build"], cuda["driver"]
    if cuda["usable"]:
        yield Finding(
            "cuda", "well", f"torch is built for CUDA {build}; {driver or 'the driver does not tell its version'}"
        )
        for number, gpu in enumerate(cuda["gpus"]):
            yield _gpu(number, gpu, cuda.get("architectures", []))
    elif cuda["hidden"]:
        yield Finding(
            "cuda", "optional", "CUDA_VISIBLE_DEVICES hides every GPU: runs use the CPU", "unset it to use them"
        )
    elif driver is None:
        yield Finding("cuda", "optional", "no NVIDIA driver on this machine: runs use the CPU")
    elif build is None:
        mend = "install torch for CUDA: pip install --force-reinstall torch torchvision, see pytorch.org"
        yield Finding("cuda", "missing", f"there is a driver ({driver}), and this torch is built without CUDA", mend)
    else:
        why = cuda["why"] or "no GPU answers"
        old = "too old" in why or "insufficient" in why
        mend = (
            f"update the NVIDIA driver, or install a torch that is built for an older CUDA than {build}"
            if old
            else "look at nvidia-smi; in a container, start it with its GPUs (--gpus all, --nv)"
        )
        yield Finding("cuda", "missing", f"torch, built for CUDA {build}, cannot use the GPU: {why} ({driver})", mend)


def _gpu(number: int, gpu: Mapping[str, Any], architectures: list[str]) -> Finding:
    major, minor = gpu["capability"]
    text = f"{gpu['name']}, {gpu['memory'] / GIB:.1f} GiB"
    text += f" ({gpu['free'] / GIB:.1f} free)" if "free" in gpu else ""
    text += f", compute capability {major}.{minor}"
    if gpu["error"]:
        mend = (
            f"this torch is built for {', '.join(architectures)}; install one for sm_{major}{minor}, or see who else "
            "uses the GPU: nvidia-smi"
        )
        return Finding(f"gpu {number}", "missing", f"{text}: {gpu['error']}", mend)
    return Finding(f"gpu {number}", "well", text)


def _requirements() -> list[Any]:
    """What is needed without any extra; torch first, as the others take its place in the queue."""
    from packaging.requirements import Requirement

    parsed = [Requirement(line) for line in importlib.metadata.requires("bnnbench") or ()]
    return [each for each in parsed if each.marker is None or each.marker.evaluate({"extra": ""})]


def _extras() -> dict[str, list[Any]]:
    from packaging.requirements import Requirement

    parsed = [Requirement(line) for line in importlib.metadata.requires("bnnbench") or ()]
    names = importlib.metadata.metadata("bnnbench").get_all("Provides-Extra") or ()
    return {
        extra: [each for each in parsed if _only_with(extra, each.marker)]
        for extra in names
        if extra not in NOT_FOR_USERS
    }


def _only_with(extra: str, marker: Any) -> bool:
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _lacking(requirement: Any) -> Finding | None:
    """Why a requirement is not met by what is installed; None when it is."""
    mend = f"pip install '{requirement.name}{requirement.specifier}'"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(requirement.name, "missing", "not installed", mend)
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(requirement.name, "missing", f"{version}, and {requirement.specifier} is needed", mend)
    return None


def probed(modules: list[str]) -> Iterator[dict[str, Any]]:
    """The probe's lines as they come; a module at which the process dies is one that failed, and the rest is probed
    by another process."""
    left = list(modules)
    while left:
        current = left[0]
        with TemporaryFile() as errors:
            # -P: a folder called `torch` where the user happens to be is not torch.
            command = [sys.executable, "-P", "-m", "benchmark.doctor.probe", *left]
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as probe:
                for line in _lines(probe):
                    current = line.get("importing", current)
                    if "imported" in line or "failed" in line:
                        left.remove(current)
                    yield line
            if left:
                left.remove(current)
                yield {"failed": current, "error": _death(probe.returncode, errors)}


def _lines(probe: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """What the probe says; it is killed when it says nothing for a minute."""
    while True:
        patience = threading.Timer(IMPORT_SECONDS, probe.kill)
        patience.start()
        text = probe.stdout.readline() if probe.stdout is not None else b""
        patience.cancel()
        if not text.endswith(b"\n"):
            return
        yield json.loads(text)


def _death(code: int, errors: Any) -> str:
    errors.seek(0)
    said = errors.read().decode(errors="replace").strip().splitlines()
    name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    slow = f", after {IMPORT_SECONDS:g} s or for want of memory" if code == -signal.SIGKILL else ""
    return f"the process died ({name}{slow}){': ' + said[-1] if said else ''}"

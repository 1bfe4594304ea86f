"""`python -m benchmark.doctor.probe MODULE...`: import modules one after another and print one JSON line for each.

A process of its own, so that a library that crashes, hangs or prints takes nothing with it. After `torch`, the lines
tell about CUDA and every GPU.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DRIVER = Path("/proc/driver/nvidia/version")


def lines(modules: list[str]) -> Iterator[dict[str, Any]]:
    """What there is to say about each module: `importing`, then `imported` or `failed`."""
    for name in modules:
        yield {"importing": name}
        try:
            module = importlib.import_module(name)
        except BaseException as error:
            yield {"failed": name, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
            continue
        yield {"imported": name}
        if name == "torch":
            yield {"cuda": cuda(module)}


def cuda(torch: Any) -> dict[str, Any]:
    """The CUDA build, the driver, and the GPUs, each with a small computation done on it."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    report: dict[str, Any] = {
        "build": torch.version.cuda or torch.version.hip,
        "driver": DRIVER.read_text(encoding="utf-8", errors="replace").splitlines()[0] if DRIVER.exists() else None,
        "usable": usable,
        "why": " ".join(str(each.message).split(" (Triggered")[0] for each in heard),
        "hidden": os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"),
        "gpus": [],
    }
    if report["build"] and not usable and not report["why"]:
        try:
            torch.cuda.init()
        except Exception as error:
            report["why"] = str(error)
    if usable:
        report["architectures"] = torch.cuda.get_arch_list()
        report["gpus"] = [_gpu(torch, number) for number in range(torch.cuda.device_count())]
    return report


def _gpu(torch: Any, number: int) -> dict[str, Any]:
    about = torch.cuda.get_device_properties(number)
    gpu = {"name": about.name, "memory": about.total_memory, "capability": [about.major, about.minor], "error": None}
    try:
        ones = torch.ones(64, 64, device=f"cuda:{number}")
        gpu["free"] = torch.cuda.mem_get_info(number)[0]
        if float((ones @ ones).sum()) != 64.0**3:
            gpu["error"] = "a small matrix product came out wrong"
    except Exception as error:
        gpu["error"] = str(error).splitlines()[0]
    return gpu


if __name__ == "__main__":
    # Libraries may print while they are imported: the report has a descriptor of its own.
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in lines(sys.argv[1:]):
        report.write(json.dumps(line) + "\n")
        report.flush()

"""All checks, the quick ones first: the first lines are on screen before torch is imported."""

from __future__ import annotations

from benchmark.doctor import cluster, machine, packages, software, storage
from benchmark.doctor.finding import Check

CHECKS = (
    Check("python", software.python),
    Check("bnnbench", software.bnnbench),
    Check("terminal", machine.text_output),
    Check("cores", machine.processors),
    Check("memory", machine.memory),
    Check("shared memory", machine.shared_memory),
    Check("results", storage.results),
    Check("temporary", storage.temporary),
    Check("data", storage.data),
    Check("slurm", cluster.slurm),
    Check("plugins", software.plugins, seconds=60),  # somebody's may import torch
    Check("packages", packages.packages, seconds=120),
    Check("extras", packages.extras),
)

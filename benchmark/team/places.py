"""Which device a member has, and whether torchrun has started the members."""

from __future__ import annotations

import os

import torch

from benchmark.errors import ConfigError, EnvironmentProblem


def device_of_rank(device: torch.device, rank: int, size: int) -> torch.device:
    """The CPU for all, or consecutive GPUs from the run's own (`cuda`: from the first).

    Raises:
        EnvironmentProblem: this machine has too few GPUs.
    """
    if device.type != "cuda":
        return device
    first, there = device.index or 0, torch.cuda.device_count()
    local = int(os.environ["LOCAL_RANK"]) if under_torchrun(size) else rank
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if under_torchrun(size) else size
    if first + here > there:
        raise EnvironmentProblem(
            f"devices: {size} from '{device}' on need {first + here} GPUs, and this process sees {there}.\n"
            "  Ask for fewer devices, or run where there are more (CUDA_VISIBLE_DEVICES says which are seen)."
        )
    return torch.device("cuda", first + local)


def under_torchrun(size: int) -> bool:
    """Whether torchrun has started this process as one of the members.

    Raises:
        ConfigError: it has started another number of processes than the run has devices.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    started = int(os.environ["WORLD_SIZE"])
    if started != size:
        raise ConfigError(
            f"torchrun has started {started} processes, and the run asks for devices: {size}; the two must agree."
        )
    return True

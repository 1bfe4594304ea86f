"""Building what a phase works on, from a specification: settings, networks, data, the posteriors of needed runs."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Any

import torch
from torch import nn

from benchmark.compression import BitReader
from benchmark.contracts import Method, NeededRun, Posterior, Problem, SplitName, Task
from benchmark.data import Split
from benchmark.datasets import check_data
from benchmark.errors import BenchError, ConfigError, CorruptBitstream, PluginError
from benchmark.files import canonical_json
from benchmark.identity import Protocol, RunSpec
from benchmark.needed_data import fingerprint_under
from benchmark.registry import METHODS, NETWORKS, TASKS
from benchmark.runfolder import RunFolder
from benchmark.seeds import seed_from
from benchmark.weights import load_into, on_device_of, weights_of


class MissingNeedError(BenchError):
    """A needed run has no valid result; names the run and what to do."""


def task_of(spec: RunSpec) -> tuple[Task, Any]:
    """The run's task and its settings; refuses data that differ from those the run was planned with."""
    task = TASKS.get(spec.task.name)
    config = task.Config(**spec.task.config)
    shift = tuple(Protocol(**spec.protocol).shift)
    found = _fingerprint(spec.task.name, canonical_json(spec.task.config), shift)
    if found != spec.fingerprint:
        raise ConfigError(
            f"the data of task '{spec.task.name}' have the fingerprint {found[:16]}, the run was planned with "
            f"{spec.fingerprint[:16]}. Restore the data, or plan the study again: other data are another run."
        )
    return task, config


@functools.cache
def _fingerprint(name: str, settings: str, shift: tuple[int, ...]) -> str:
    """Once per process: a fingerprint may read all of the data, and a phase asks for it again and again."""
    task = TASKS.get(name)
    config = task.Config(**json.loads(settings))
    check_data([*task.data(config), *(task.corruption_data(config) if shift else ())])
    return fingerprint_under(task, config, shift)


def method_of(spec: RunSpec) -> tuple[Method, Any]:
    """The run's method and its settings."""
    method = METHODS.get(spec.method.name)
    return method, method.Config(**spec.method.config)


def split_of(spec: RunSpec, name: SplitName, device: torch.device) -> Split | None:
    """One split of the run's data on the run's device."""
    task, config = task_of(spec)
    split = task.load(config, name)
    return None if split is None else split.to(device)


def required_split(spec: RunSpec, name: SplitName, device: torch.device) -> Split:
    """As `split_of`, for a split that every task must have.

    Raises:
        PluginError: this one does not have it.
    """
    split = split_of(spec, name, device)
    if split is None:
        raise PluginError(f"task '{spec.task.name}' has no {name} split.")
    return split


def network_of(spec: RunSpec, seed: int, device: torch.device) -> nn.Module:
    """The run's architecture, initialised from `seed`; the global generators are left as they were."""
    task, config = task_of(spec)
    info = task.info(config)
    family = NETWORKS.family(spec.network.name)[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = family.build(spec.network.name, info.input_shape, info.n_classes)
    network = network.to(device)
    return network.to(memory_format=torch.channels_last) if device.type == "cuda" else network


def problem_of(spec: RunSpec, needed: tuple[NeededRun, ...], device: torch.device) -> Problem:
    """What the run's method learns from. The test split is not loaded."""
    task, config = task_of(spec)
    info = task.info(config)
    protocol = Protocol(**spec.protocol)
    seed = seed_from(spec.task.name, spec.network.name, spec.seed, "network")
    network = network_of(spec, seed, device)
    family = NETWORKS.family(spec.network.name)[1]
    given = family.start(spec.network.name, family.Config(**spec.network.config), network)
    start = on_device_of(network, given)
    load_into(network, {**weights_of(network), **start})
    mean = needed[0].posterior.mean() if needed else None
    if mean is not None:
        load_into(network, mean)
    return Problem(
        network=network,
        new_network=lambda seed: network_of(spec, seed, device),
        train=required_split(spec, "train", device),
        val=split_of(spec, "val", device),
        input_shape=info.input_shape,
        n_classes=info.n_classes,
        draws=protocol.draws,
        start=start,
        budget=protocol.budget,
    )


def needed_runs(run: RunFolder, spec: RunSpec, device: torch.device) -> tuple[NeededRun, ...]:
    """The posteriors of the runs that `spec` needs, decoded from their stored bytes.

    Raises:
        MissingNeedError: one of them is not finished.
    """
    return tuple(_needed_run(RunFolder(run.path.parent / need), device) for need in spec.needs)


def posteriors_of_needs(run: RunFolder, spec: RunSpec) -> dict[str, str]:
    """Run id -> SHA-256 of the posterior that the run has now, for every run that `spec` needs."""
    results = {need: RunFolder(run.path.parent / need).result() for need in spec.needs}
    return {need: result["posterior"]["sha256"] for need, result in results.items() if result is not None}


def _needed_run(folder: RunFolder, device: torch.device) -> NeededRun:
    result = folder.result()
    if result is None:
        raise MissingNeedError(
            f"this run needs {folder.id}, which is {folder.state().name}.\n"
            f"  See: bnnbench logs {folder.id}      then: bnnbench retry {folder.id}"
        )
    spec = folder.spec()
    posterior = decode_posterior(folder, spec, device, expected=result["posterior"]["sha256"])
    seconds = result["metrics"]["train_seconds"]["value"]
    return NeededRun(spec.method.name, spec.method.config, result["facts"], posterior, seconds)


def decode_posterior(folder: RunFolder, spec: RunSpec, device: torch.device, expected: str | None = None) -> Posterior:
    """The posterior in `posterior.bin`, from its bytes and the architecture alone.

    Raises:
        CorruptBitstream: the bytes are damaged, or not those that the result counted.
    """
    path = folder.file("posterior.bin")
    mend = f"To make it anew: bnnbench retry {folder.id} --afresh"
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CorruptBitstream(f"{path} is missing. {mend}") from error
    if expected is not None and hashlib.sha256(data).hexdigest() != expected:
        raise CorruptBitstream(f"{path} is damaged: it is not the file that its result was computed from. {mend}")
    network = network_of(spec, seed_from("architecture"), device)
    return METHODS.get(spec.method.name).posterior_type().decode(BitReader(data), network)

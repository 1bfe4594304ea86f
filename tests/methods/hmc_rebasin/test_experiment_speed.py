"""Seconds of all experiments on 600 samples of a small network. Prints what it measures."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from experiment_cases import chains_of, material_of, permuted_copies
from paired_timing import threads
from torch import nn

from benchmark import Problem
from methods.hmc_rebasin.experiments import EXPERIMENTS
from tasks.digits import Digits
from tasks.networks import mlp

pytestmark = pytest.mark.benchmarks


def digits_perceptron() -> Problem:
    """64-64-10, untrained: times do not depend on what has been learned."""
    task, settings = Digits(), Digits.Config()
    info = task.info(settings)

    def build(seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return mlp.build((64,), "relu", info.input_shape, info.n_classes)

    train, val = (task.load(settings, name) for name in ("train", "val"))
    assert train is not None
    return Problem(build(0), build, train, val, info.input_shape, info.n_classes, 20)


def test_experiments_on_600_samples_take_less_than_30_seconds_and_planting_less_than_a_minute(tmp_path: Path):
    problem = digits_perceptron()
    _, copies = permuted_copies(problem, 600)
    material = material_of(tmp_path, problem, chains_of(problem, copies, 4))
    seconds = {}
    with threads(1):
        for name, experiment in EXPERIMENTS.items():
            start = time.process_time()
            experiment(material)
            seconds[name] = time.process_time() - start
            print(f"{name}: {seconds[name]:.2f} s")
    assert seconds.pop("planted") < 60
    assert sum(seconds.values()) < 30

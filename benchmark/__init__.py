"""bnnbench: a comparative benchmark suite for Bayesian neural networks. What a plugin author imports, and nothing else.

Names are loaded on first use, so that a module which only declares a method or a task stays cheap to import. No name
is that of a module of the package: importing the module would put it in the name's place.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.compression import BitReader, BitWriter
    from benchmark.config import Config, MethodConfig
    from benchmark.context import Context, require_finite
    from benchmark.contracts import (
        Fact,
        Method,
        Need,
        NeededRun,
        NetworkFamily,
        Posterior,
        Problem,
        RunContext,
        SplitName,
        Task,
        TaskInfo,
        Weights,
    )
    from benchmark.data import Augment, Split
    from benchmark.datasets import (
        DataSet,
        MissingData,
        check_data,
        data_root,
        digest_of,
        fingerprint_of,
        prepare_command,
        user_cache,
    )
    from benchmark.errors import (
        BenchError,
        ConfigError,
        CorruptBitstream,
        Diverged,
        EnvironmentProblem,
        MissingPackage,
        NotApplicable,
        nearest,
        unknown,
    )
    from benchmark.inputs import Index, Inputs, Pixels, TensorInputs, loader_processes, normalised
    from benchmark.posteriors import PointMass, WeightSamples
    from benchmark.predict import Pool, Predictive, draw_log_probs
    from benchmark.resources import Resources
    from benchmark.runfolder import clock_of
    from benchmark.seeds import seed_from
    from benchmark.weights import copy_of, evaluating, forward, load_into, on_device_of, weights_of

_HOME = {
    "benchmark.compression": ("BitReader", "BitWriter"),
    "benchmark.config": ("Config", "MethodConfig"),
    "benchmark.context": ("Context", "require_finite"),
    "benchmark.contracts": (
        "Fact",
        "Method",
        "Need",
        "NeededRun",
        "NetworkFamily",
        "Posterior",
        "Problem",
        "RunContext",
        "SplitName",
        "Task",
        "TaskInfo",
        "Weights",
    ),
    "benchmark.data": ("Augment", "Split"),
    "benchmark.datasets": (
        "DataSet",
        "MissingData",
        "check_data",
        "data_root",
        "digest_of",
        "fingerprint_of",
        "prepare_command",
        "user_cache",
    ),
    "benchmark.errors": (
        "BenchError",
        "ConfigError",
        "CorruptBitstream",
        "Diverged",
        "EnvironmentProblem",
        "MissingPackage",
        "NotApplicable",
        "nearest",
        "unknown",
    ),
    "benchmark.inputs": ("Index", "Inputs", "Pixels", "TensorInputs", "loader_processes", "normalised"),
    "benchmark.posteriors": ("PointMass", "WeightSamples"),
    "benchmark.predict": ("Pool", "Predictive", "draw_log_probs"),
    "benchmark.resources": ("Resources",),
    "benchmark.runfolder": ("clock_of",),
    "benchmark.seeds": ("seed_from",),
    "benchmark.weights": ("copy_of", "evaluating", "forward", "load_into", "on_device_of", "weights_of"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Augment",
    "BenchError",
    "BitReader",
    "BitWriter",
    "Config",
    "ConfigError",
    "Context",
    "CorruptBitstream",
    "DataSet",
    "Diverged",
    "EnvironmentProblem",
    "Fact",
    "Index",
    "Inputs",
    "Method",
    "MethodConfig",
    "MissingData",
    "MissingPackage",
    "Need",
    "NeededRun",
    "NetworkFamily",
    "NotApplicable",
    "Pixels",
    "PointMass",
    "Pool",
    "Posterior",
    "Predictive",
    "Problem",
    "Resources",
    "RunContext",
    "Split",
    "SplitName",
    "Task",
    "TaskInfo",
    "TensorInputs",
    "WeightSamples",
    "Weights",
    "check_data",
    "clock_of",
    "copy_of",
    "data_root",
    "digest_of",
    "draw_log_probs",
    "evaluating",
    "fingerprint_of",
    "forward",
    "load_into",
    "loader_processes",
    "nearest",
    "normalised",
    "on_device_of",
    "prepare_command",
    "require_finite",
    "seed_from",
    "unknown",
    "user_cache",
    "weights_of",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'benchmark' has no attribute '{name}'")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""A task, a network and methods that train in milliseconds, and misbehave where a test asks for it.

TINY_PAUSE names a folder. When it holds a file `<point>.ask`, the process that reaches `<point>` renames it to
`<point>.here` with its process number as content, and waits to be killed or until the file is removed.
TINY_MENDED names a file: while it exists, no method misbehaves.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmark import (
    BitReader,
    BitWriter,
    Config,
    Diverged,
    Method,
    MethodConfig,
    MissingPackage,
    Need,
    NetworkFamily,
    NotApplicable,
    PointMass,
    Posterior,
    Problem,
    RunContext,
    Split,
    Task,
    TaskInfo,
    Weights,
    load_into,
    weights_of,
)

PATIENCE_SECONDS = 60.0


def reach(point: str) -> None:
    """Wait at `point` when a test asked for it."""
    folder = os.environ.get("TINY_PAUSE")
    if folder is None:
        return
    ask, here = Path(folder, f"{point}.ask"), Path(folder, f"{point}.here")
    try:
        ask.rename(Path(folder, f"{point}.pid"))
    except FileNotFoundError:
        return
    Path(folder, f"{point}.pid").write_text(str(os.getpid()))
    Path(folder, f"{point}.pid").rename(here)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while here.exists():
        if time.monotonic() > deadline:
            os._exit(99)
        time.sleep(0.005)


class Tiny(Task):
    """Sixty 2x2 images of three classes."""

    name = "tiny"

    def info(self, config: Any) -> TaskInfo:
        return TaskInfo((1, 2, 2), 3, 60, 20, 40)

    def fingerprint(self, config: Any) -> str:
        return "7e57" * 16

    def load(self, config: Any, split: Literal["train", "val", "test"]) -> Split | None:
        reach(f"load {split}")
        n = {"train": 60, "val": 20, "test": 40}[split]
        generator = torch.Generator().manual_seed(n)
        labels = torch.arange(n) % 3
        means = torch.tensor([[1.0, 0, 0, 1], [0, 1.0, 1, 0], [1.0, 1, 0, 0]])
        inputs = means[labels] + 0.3 * torch.randn(n, 4, generator=generator)
        return Split(inputs.view(n, 1, 2, 2), labels)


class TinyNet(NetworkFamily):
    """One linear layer."""

    name = "tinynet"
    forms = "tinynet"

    def check(self, network: str) -> None:
        pass

    def build(self, network: str, input_shape: tuple[int, int, int], n_classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(4, n_classes))


class Watched(Posterior):
    """Gaussian noise of fixed width about a mean; its methods are the points inside the suite's own phases."""

    def __init__(self, weights: Weights) -> None:
        self.weights = {name: tensor.detach().clone() for name, tensor in weights.items()}

    def draws(self, n: int, generator: torch.Generator) -> Iterator[Weights]:
        for _ in range(n):
            yield {k: v + 0.1 * torch.randn(v.shape, generator=generator) for k, v in self.weights.items()}

    def mean(self) -> Weights:
        reach("before evaluation.json")
        return self.weights

    def encode(self, out: BitWriter) -> None:
        reach("before posterior.bin")
        out.tensors("mean", self.weights)

    @classmethod
    def decode(cls, src: BitReader, network: nn.Module) -> Posterior:
        if sys.modules.get("benchmark.tiny_has_fitted") is None:
            reach("before predictions.npz")
        return cls(src.tensors("mean"))

    def facts(self) -> dict[str, float | int | str | bool]:
        reach("before fit.json")
        return {"norm": float(sum(v.square().sum() for v in self.weights.values()))}


class SgdConfig(MethodConfig):
    steps: int = 12
    base: bool = False
    sleep: float = 0.0


class TinySgd(Method):
    """Well-behaved: a checkpoint is offered after each step, everything random comes from the run's generators."""

    name = "tiny_sgd"
    Config = SgdConfig

    def needs(self, config: SgdConfig) -> tuple[Need, ...]:
        return (Need("tiny_base", {}),) if config.base else ()

    def fit(self, problem: Problem, ctx: RunContext, config: SgdConfig) -> Posterior:
        sys.modules["benchmark.tiny_has_fitted"] = sys  # marks this process as the one of `fit`
        reach("fit begins")
        network, order = problem.network, ctx.generator("order")
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        first = 0
        if (saved := ctx.checkpoint.load()) is not None:
            load_into(network, saved["weights"])
            optimiser.load_state_dict(saved["optimiser"])
            first = saved["step"]
        for step in range(first, config.steps):
            time.sleep(config.sleep)
            inputs, labels = next(problem.train.training_batches(20, order))
            loss = nn.functional.cross_entropy(network(inputs + 0.01 * torch.randn_like(inputs)), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            value = loss.item()
            ctx.log(step=step, loss=value)
            ctx.progress(step + 1, config.steps, loss=value)
            reach(f"before checkpoint {step + 1}")
            ctx.checkpoint.offer(lambda step=step: state_of(network, optimiser, step + 1))
            reach(f"after checkpoint {step + 1}")
        return Watched(weights_of(network))

    def posterior_type(self) -> type[Posterior]:
        return Watched


def state_of(network: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> dict[str, Any]:
    return {"weights": dict(weights_of(network)), "optimiser": optimiser.state_dict(), "step": step}


class TinyBase(Method):
    """A point mass that others start from; fails while its steering file says so."""

    name = "tiny_base"

    def fit(self, problem: Problem, ctx: RunContext, config: Any) -> Posterior:
        flag = os.environ.get("TINY_BASE_FAILS")
        if flag is not None and not mended():
            raise RuntimeError("the base network fails, as asked for")
        return PointMass(weights_of(problem.network))

    def posterior_type(self) -> type[Posterior]:
        return PointMass


class Rounded(PointMass):
    """Loses digits when it is encoded."""

    def encode(self, out: BitWriter) -> None:
        out.tensors("weights", {name: tensor.half().float() for name, tensor in self.weights.items()})


class TinyRounded(TinyBase):
    """Its encoding changes the draws, so that the run keeps predictions from before."""

    name = "tiny_rounded"

    def fit(self, problem: Problem, ctx: RunContext, config: Any) -> Posterior:
        return Rounded(weights_of(problem.network))

    def posterior_type(self) -> type[Posterior]:
        return Rounded


class BadConfig(MethodConfig):
    how: str = "raise"


class TinyBad(Method):
    """Misbehaves in the way that `how` names, until it is mended."""

    name = "tiny_bad"
    Config = BadConfig

    def fit(self, problem: Problem, ctx: RunContext, config: BadConfig) -> Posterior:
        print("last words on standard output")
        print("last words on standard error", file=sys.stderr)
        if not mended():
            getattr(self, f"_{config.how}")(problem)
        weights = weights_of(problem.network)
        if config.how == "nan" and not mended():
            weights = {name: tensor * float("nan") for name, tensor in weights.items()}
        if config.how == "wrong_type" and not mended():
            return weights  # type: ignore[return-value]
        return PointMass(weights)

    def posterior_type(self) -> type[Posterior]:
        return PointMass

    def _raise(self, _: Problem) -> None:
        raise ValueError("a bug of the method, with an umlaut: ü")

    def _sys_exit(self, _: Problem) -> None:
        sys.exit(0)

    def _os_exit(self, _: Problem) -> None:
        os._exit(0)

    def _segfault(self, _: Problem) -> None:
        ctypes.string_at(0)

    def _abort(self, _: Problem) -> None:
        os.abort()

    def _sigkill(self, _: Problem) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _eat_memory(self, _: Problem) -> None:
        hoard = []
        while True:
            hoard.append(bytearray(32 * 2**20))

    def _eat_tensors(self, _: Problem) -> None:
        hoard = []
        while True:
            hoard.append(torch.ones(8 * 2**20))

    def _one_absurd_tensor(self, _: Problem) -> None:
        torch.empty(2**48, dtype=torch.uint8)

    def _miss_package(self, problem: Problem) -> None:
        raise MissingPackage("method 'tiny_bad' needs a package. Install it: pip install 'bnnbench[bad]'")

    def _not_for_this_network(self, _: Problem) -> None:
        raise NotApplicable("tiny_bad knows no network of this family; it knows: mlp")

    def _diverge(self, _: Problem) -> None:
        raise Diverged("the loss is NaN in step 3. Train with a smaller learning rate.")

    def _nan(self, _: Problem) -> None:
        pass

    def _wrong_type(self, _: Problem) -> None:
        pass

    def _hang(self, _: Problem) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        reach("hanging")
        while True:
            time.sleep(0.05)

    def _leave_helper(self, _: Problem) -> None:
        helper = subprocess.Popen(["sleep", "1000"])
        Path(os.environ["TINY_PAUSE"], "helper.pid").write_text(str(helper.pid))

    def _change_folder(self, _: Problem) -> None:
        os.chdir("/")

    def _chatter(self, _: Problem) -> None:
        for line in range(2000):
            print(f"line {line} of a method that talks a lot")


class TinyConfig(Config):
    pass


def mended() -> bool:
    flag = os.environ.get("TINY_MENDED")
    return flag is not None and Path(flag).exists()


def noise(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape)


reach("start")

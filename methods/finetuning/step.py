"""One step of a fine-tuning: forward and backward passes in parts and in half precision, and batches left out.

What the weights are and what becomes of their gradients is the `Learner`'s.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmark import Diverged, RunContext, forward
from methods.finetuning.points import Points
from methods.precision import Precision

log = logging.getLogger("bnnbench")

MAX_SKIPPED = 10
ADVICE = "Try a third of lr_mu."
LOOK_EVERY = 16
"""Steps between looks at the counter of losses that are not finite: each look waits for the device."""


def launchers_micro_batch(ctx: RunContext, size: int, *, harmless: bool) -> int | None:
    """The launcher's cap on examples per forward pass, where it is below `size`. An operational setting must not change
    a number (statistics of a part of the batch are other numbers): where it is not `harmless`, None with a warning."""
    if ctx.micro_batch is None or ctx.micro_batch >= size:
        return None
    if not harmless:
        log.warning("The launcher's micro-batch would change this run's numbers and is not used.")
        return None
    return ctx.micro_batch


class Learner(ABC):
    """What is trained. A step calls `begin`, then `loss` per micro-batch, then `update`."""

    points: Points
    advice: ClassVar[str] = ADVICE
    """What to change when the training diverges."""

    def __init__(self, network: nn.Module, points: Points) -> None:
        self.network, self.points = network, points

    @abstractmethod
    def begin(self) -> None:
        """Before the forward passes of a step: draw its noise."""

    @abstractmethod
    def weights(self) -> Mapping[str, Tensor]:
        """Every parameter and buffer for a forward pass."""

    @abstractmethod
    def leaves(self) -> Sequence[Tensor]:
        """The tensors at which `backward` leaves gradients."""

    @abstractmethod
    def update(self, t: int, found_inf: Tensor) -> None:
        """Step number t with the gradients at the leaves; where `found_inf` (float32, ()) is not 0, nothing moves."""

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Mean loss (), of the micro-batch that it is given."""
        return cross_entropy(forward(self.network, self.weights(), inputs), labels)

    @abstractmethod
    def state_dict(self) -> dict[str, Any]: ...

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Step:
    """The step and what it remembers. Part of checkpoints. micro_batch: most examples per forward pass,
    None: all."""

    def __init__(self, learner: Learner, *, micro_batch: int | None, precision: Precision) -> None:
        self.learner, self._micro_batch, self._precision = learner, micro_batch, precision
        device = next(iter(learner.weights().values())).device
        self._left_out = torch.zeros(2, dtype=torch.int64, device=device)  # losses that were not finite: all, in a row
        self._overflown = torch.zeros((), dtype=torch.int64, device=device)

    @property
    def skipped(self) -> int:
        """Steps left out because the loss was not finite. Waits for the device."""
        return int(self._left_out[0])

    @property
    def overflown(self) -> int:
        """Steps left out in fp16 because the loss scale was too large; some at the start are normal."""
        return int(self._overflown)

    def __call__(self, inputs: Tensor, labels: Tensor, t: int) -> Tensor:
        """Step number t on a batch; returns the batch loss, detached. A loss that is not finite changes no weight and
        no running statistic.

        Raises:
            Diverged: more than ten such losses in a row, noticed within 16 steps.
        """
        buffers = self.learner.points.buffers
        self.learner.begin()
        before = {name: buffer.clone() for name, buffer in buffers.items()}
        loss = self._backward(inputs, labels)
        found_inf = self._precision.found_inf(loss, self.learner.leaves())
        self.learner.update(t, found_inf)
        for leaf in self.learner.leaves():
            leaf.grad = None
        bad = loss.isfinite().logical_not()
        for name, buffer in buffers.items():
            torch.where(bad, before[name], buffer, out=buffer)
        self._count(bad, found_inf)
        if t % LOOK_EVERY == LOOK_EVERY - 1:
            self.look()
        return loss

    def look(self) -> None:
        """Raise Diverged after more than ten losses in a row that were not finite. Waits for the device."""
        row = int(self._left_out[1])
        if row > MAX_SKIPPED:
            raise Diverged(f"the loss was not finite in {row} steps in a row. {self.learner.advice}")

    def _backward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over the batch; its gradients accumulate at the leaves, one micro-batch at a time. Micro-batches
        differ in size by at most one, so that none is too small for batch statistics."""
        parts = -(-len(labels) // (self._micro_batch or len(labels)))
        total = torch.zeros((), device=labels.device)
        if inputs.is_cuda:  # the inputs' layout decides that of all activations; weights stay contiguous
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        for x, y in zip(inputs.tensor_split(parts), labels.tensor_split(parts), strict=True):
            with self._precision.autocast():
                loss = self.learner.loss(x, y) * (len(y) / len(labels))
            self._precision.scaled(loss).backward()
            total = total + loss.detach()
        return total

    def _count(self, bad: Tensor, found_inf: Tensor) -> None:
        self._left_out[0] += bad
        self._left_out[1] = (self._left_out[1] + 1) * bad
        self._overflown += (found_inf > 0) & ~bad

    def state_dict(self) -> dict[str, Any]:
        return {
            "learner": self.learner.state_dict(),
            "precision": self._precision.state_dict(),
            "left_out": self._left_out,
            "overflown": self._overflown,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        self._precision.load_state_dict(state["precision"])
        self._left_out.copy_(state["left_out"])
        self._overflown.copy_(state["overflown"])

"""One optimiser step of a training: the batch mixed, passed through the network in parts, the gradient applied."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import seed_from
from methods.map.averaging import AveragedWeights
from methods.map.config import TrainingConfig
from methods.map.mixing import Batch, Mixing
from methods.map.parallel import Parallel
from methods.map.recipe import Recipe, build_optimiser, rate
from methods.optimisers import clip
from methods.precision import Precision, resolve


class Step:
    """`step(inputs, labels, t)` and everything that it changes: network, optimiser, loss scale, average. Part of
    checkpoints.

    steps: how many the whole training has. mixing_seed: where the random numbers of mixup and CutMix, and of dropout
    in the parts of a batch, come from. parallel: where several devices train the network.

    Raises:
        ConfigError: `precision: bf16` on a GPU without it.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        config: TrainingConfig,
        device: torch.device,
        *,
        steps: int,
        mixing_seed: int,
        parallel: Parallel | None = None,
    ) -> None:
        self._network, self._recipe, self._config, self._steps = network, recipe, config, steps
        self._seed, self._parallel = mixing_seed, parallel
        self._optimiser = build_optimiser(network, recipe)
        self._trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._precision = Precision(resolve(config.precision, device), device)
        self._mixing = Mixing(config.mixup, config.cutmix, mixing_seed)
        self.average = AveragedWeights(network, config.ema) if config.ema else None
        self._skipped = torch.zeros((), dtype=torch.int64, device=device)
        self._last = torch.zeros((), device=device)

    def __call__(self, inputs: Tensor, labels: Tensor, t: int) -> Tensor:
        """Step t = 0, 1, ...; the batch loss, detached and not read, so that nothing waits for the device. In fp16 a
        loss that overflowed is that of the step before it (0 if there was none): its step changes nothing."""
        if self._config.accumulate == 1:
            loss = self._backward(self._mixing(inputs, labels, t), 1.0)
        else:
            loss = self._in_parts(inputs, labels, t)
        # Between the two, and nowhere else, gradients and loss are complete and not yet applied.
        if self._parallel is not None:
            self._parallel.complete(loss, self._trained)
        self._update(loss, t)
        if self._precision.kind == "fp16":
            loss = self._last = torch.where(loss.isfinite(), loss, self._last)
        return loss

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the network has the weights that count: the averaged ones where there is an average."""
        return nullcontext() if self.average is None else self.average.in_place()

    @property
    def precision(self) -> str:
        """What training passes run in on this device."""
        return self._precision.kind

    @property
    def skipped(self) -> int:
        """Steps left out in fp16 because something overflowed; some at the start are normal. Waits for the device."""
        return int(self._skipped)

    def _in_parts(self, inputs: Tensor, labels: Tensor, t: int) -> Tensor:
        """The parts of the batch that are this device's, all of them unless there are several; what they add to the
        mean loss of the batch, (). Parts differ in size by at most one; there are no more than examples."""
        whole, first, count = len(labels), 0, min(self._config.accumulate, len(labels))
        if self._parallel is not None:
            whole, first, count = self._parallel.whole(t), self._parallel.share.first, self._parallel.share.each
        losses = []
        parts = zip(inputs.tensor_split(count), labels.tensor_split(count), strict=True)
        for part, (own, label) in enumerate(parts, start=first):
            torch.manual_seed(seed_from(self._seed, "dropout", t, part))  # whichever device has the part
            losses.append(self._backward(self._mixing(own, label, t, part), len(label) / whole))
        return torch.stack(losses).sum()

    def _backward(self, batch: Batch, weight: float) -> Tensor:
        """`weight` times the mean loss, detached; adds its gradient, times the loss scale, to the parameters'."""
        loss = self._loss(batch)
        if weight != 1:
            loss = loss * weight
        self._precision.scaled(loss).backward()
        return loss.detach()

    def _loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy, in float32 from the logits on."""
        inputs = batch.inputs
        if inputs.is_cuda:
            # As the network's own weights are (the suite hands it over like this): convolutions need no copies.
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with self._precision.autocast():
            logits = self._network(inputs)  # (b, K)
        return batch.loss(logits.float(), self._config.label_smoothing)

    def _update(self, loss: Tensor, t: int) -> None:
        """Clip, move the weights, average them. Takes the gradients off."""
        found_inf = None
        if self._precision.kind == "fp16":
            found_inf = self._precision.found_inf(loss, self._trained)
            self._skipped += found_inf > 0
        if self._config.clip_norm is not None:
            clip([weight.grad for weight in self._trained if weight.grad is not None], self._config.clip_norm)
        self._optimiser.step(rate(t, self._steps, self._recipe.lr, self._config), found_inf)
        if self.average is not None:
            self.average.update(t)

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self._network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "precision": self._precision.state_dict(),
            "skipped": self._skipped,
            "last": self._last,
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._precision.load_state_dict(state["precision"])
        self._skipped.copy_(state["skipped"])
        self._last.copy_(state["last"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

"""Half precision for forward and backward passes, and gradients that are not finite: without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor

from benchmark import ConfigError

Kind = Literal["fp32", "bf16", "fp16"]


def resolve(precision: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device) -> Kind:
    """What runs on this device: fp32 on the CPU, whatever is asked for; `auto` on a GPU is bf16 if it has that.

    Raises:
        ConfigError: bf16 on a GPU without it.
    """
    if device.type != "cuda":
        return "fp32"
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not has_bf16:
        raise ConfigError("precision 'bf16' is not supported by this GPU; use fp16, fp32 or auto")
    if precision == "auto":
        return "bf16" if has_bf16 else "fp32"
    return precision


class Precision:
    """Autocast, and for fp16 the dynamic loss scale of `torch.amp.GradScaler`. Part of checkpoints."""

    def __init__(self, kind: Kind, device: torch.device) -> None:
        self.kind: Kind = kind
        self._device = device
        self._scaler = torch.amp.GradScaler(device.type) if kind == "fp16" else None

    def autocast(self) -> AbstractContextManager[Any]:
        """For the forward pass."""
        dtype = torch.float16 if self.kind == "fp16" else torch.bfloat16
        return torch.autocast(self._device.type, dtype, enabled=self.kind != "fp32")

    def scaled(self, loss: Tensor) -> Tensor:
        """What to call `backward` on."""
        return loss if self._scaler is None else self._scaler.scale(loss)

    def found_inf(self, loss: Tensor, leaves: Sequence[Tensor]) -> Tensor:
        """Undo the scale of the leaves' gradients; float32 (), 1 where the step has to be left out, else 0.

        That is when the loss (detached, ()) is not finite, and in fp16 when a gradient is not.
        """
        bad = loss.isfinite().logical_not().float()
        if self._scaler is None:
            return bad
        carrier = _Carrier(leaves)
        self._scaler.unscale_(carrier)
        self._scaler.step(carrier)
        self._scaler.update()
        return torch.maximum(bad, carrier.found)

    def state_dict(self) -> dict[str, Any]:
        return {} if self._scaler is None else self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._scaler is not None:
            self._scaler.load_state_dict(state)


class _Carrier(torch.optim.Optimizer):
    """Shows gradients to a `GradScaler`, which knows them by their optimiser only, and keeps what it found."""

    _step_supports_amp_scaling = True  # the scaler hands over `found_inf` as a tensor instead of waiting for it

    def __init__(self, leaves: Sequence[Tensor]) -> None:
        super().__init__([leaf for leaf in leaves if leaf.grad is not None], {})
        self.found: Tensor = torch.zeros(())

    def step(self, closure: Any = None) -> Any:
        """Called by the scaler after it has set the attribute."""
        self.found = getattr(self, "found_inf")  # noqa: B009 - set by GradScaler.step

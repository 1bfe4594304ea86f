"""One function of many weight vectors at once: chains as rows, in few and large kernels."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import linear

log = logging.getLogger("bnnbench")

Function = Callable[..., tuple[Tensor, Tensor]]


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Inside, float32 means float32: no autocast, no TF32. Energy differences are small differences of large sums.
    Afterwards the settings are what they were."""
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def chain_ready(network: nn.Module) -> nn.Module:
    """A copy in which linear layers treat a chain axis of their weights in one matrix product."""
    own = copy.deepcopy(network)
    for module in own.modules():
        if type(module) is nn.Linear:
            module.__class__ = ChainLinear
    return own


class ChainLinear(nn.Linear):
    """A linear layer for use below `torch.vmap` over its weights."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _ChainLinear.apply(x, self.weight, self.bias)
        return out


class _ChainLinear(torch.autograd.Function):
    """x W' + b, with a rule of its own for chains. Results lie in memory as (C, O, N), units before examples: products
    and sums then run along the long axis of examples, and the data meet the weights of all chains in one product."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is saved: below vmap, autograd differentiates the rule."""

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        shared = dims[0] is None
        if x.dim() != (2 if shared else 3) or dims[1] != 0 or (bias is not None and dims[2] != 0):
            return torch.vmap(linear, in_dims=dims)(x, weight, bias), 0
        chains, outputs, inputs = weight.shape
        bias = weight.new_zeros(chains, outputs) if bias is None else bias
        if shared:
            stacked = torch.addmm(bias.reshape(-1, 1), weight.reshape(-1, inputs), x.t())  # (C O, N)
            return stacked.view(chains, outputs, -1).transpose(1, 2), 0
        columns = x.movedim(dims[0] or 0, 0).transpose(1, 2)  # (C, I, N)
        return torch.baddbmm(bias[:, :, None], weight, columns).transpose(1, 2), 0


class Traced:
    """A function of tensors, recorded at the first call with new shapes and replayed after that.

    A replay runs the same kernels without the layers of Python and of autograd that found them, which are most of the
    cost of a small network. What cannot be recorded (a network that looks at values) is called as it is.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._recorded: dict[Any, Function] = {}

    @torch.no_grad()
    def __call__(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        key = tuple((tensor.shape, tensor.stride(), tensor.dtype, tensor.device) for tensor in tensors)
        if key not in self._recorded:
            self._recorded[key] = self._record(*tensors)
        return self._recorded[key](*tensors)

    def _record(self, *tensors: Tensor) -> Function:
        try:
            return make_fx(lambda *given: self._function(*given))(*tensors)
        except RuntimeError as error:  # torch has no narrower class for it
            log.info("gradients are not recorded (%s); they run as they are, more slowly", error)
            return self._function

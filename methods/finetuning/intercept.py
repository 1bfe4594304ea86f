"""Weights whose use in a layer is decided by a rule, in networks that are left untouched.

A `RuledWeight` takes the place of a parameter (by `torch.func.functional_call`). When a layer calls linear, conv1d to
conv3d, batch_norm, layer_norm or group_norm with one, the rule computes the output. Every other function of torch, and
a layer that the rule has no formula for, gets one plain tensor in its place, and is counted.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_map


class Fallbacks(Counter[str]):
    """Functions of torch that got one plain tensor in place of a ruled weight: name -> calls. Part of checkpoints, so
    that a run that goes on after its last step still knows them."""

    def state_dict(self) -> dict[str, int]:
        return dict(self)

    def load_state_dict(self, saved: dict[str, int]) -> None:
        self.clear()
        self.update(saved)


class Rule(ABC):
    """How layers use the weights of one forward pass.

    The formulas get a layer's weight and bias as they are in the call: a `RuledWeight`, a plain tensor, or None. They
    return NotImplemented where there is no formula.
    """

    def __init__(self) -> None:
        self.fallbacks = Fallbacks()
        """Functions that had to use `whole`."""

    @abstractmethod
    def whole(self, weight: RuledWeight) -> Tensor:
        """One plain tensor in the weight's place, the same whenever it is asked for in this step."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        """x (B, ..., I), weight (O, I), bias (O,)."""
        return NotImplemented

    def conv(
        self,
        function: Callable[..., Tensor],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        settings: Any,
        groups: int,
    ) -> Any:
        """x (B, C, ...), weight (O, C/groups, k...), bias (O,); settings: stride, padding, dilation."""
        return NotImplemented

    def affine(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, *, channels_last: bool) -> Any:
        """Gain and shift of a normalised x; `channels_last` where they belong to the trailing dimensions."""
        return NotImplemented


class RuledWeight(Tensor):
    """Looks like the parameter `key` (shape, dtype, device); what it does is up to the rule."""

    key: str
    rule: Rule

    @staticmethod
    def of(name: str, like: Tensor, rule: Rule) -> RuledWeight:
        """Shares the memory of `like`, detached."""
        weight = like.detach().as_subclass(RuledWeight)
        weight.key, weight.rule = name, rule
        return weight

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func in _METADATA:
                return func(*args, **kwargs)
            rule = next(value.rule for value in _ruled(args, kwargs))
            formula = _FORMULAS.get(func)
            found = NotImplemented if formula is None else formula(rule, func, args, kwargs)
            if found is not NotImplemented:
                return found
            rule.fallbacks[getattr(func, "__name__", str(func))] += 1
            plain = tree_map(lambda value: value.rule.whole(value) if isinstance(value, cls) else value, (args, kwargs))
            return func(*plain[0], **plain[1])


def _ruled(args: Sequence[Any], kwargs: dict[str, Any]) -> list[RuledWeight]:
    found: list[RuledWeight] = []
    tree_map(lambda value: found.append(value) if isinstance(value, RuledWeight) else None, (args, kwargs))
    return found


def _linear(rule: Rule, func: Any, args: Any, kwargs: Any) -> Any:
    call = _LINEAR.bind(*args, **kwargs)
    call.apply_defaults()
    x, weight, bias = call.args
    return NotImplemented if isinstance(x, RuledWeight) else rule.linear(x, weight, bias)


def _conv(rule: Rule, func: Any, args: Any, kwargs: Any) -> Any:
    call = _CONV.bind(*args, **kwargs)
    call.apply_defaults()
    x, weight, bias, stride, padding, dilation, groups = call.args
    if isinstance(x, RuledWeight) or x.dim() != weight.dim():  # a single image without its batch index
        return NotImplemented
    return rule.conv(func, x, weight, bias, (stride, padding, dilation), groups)


def _batch_norm(rule: Rule, func: Any, args: Any, kwargs: Any) -> Any:
    call = _BATCH_NORM.bind(*args, **kwargs)
    call.apply_defaults()
    x, mean, var, weight, bias, *settings = call.args
    return _norm(rule, lambda: func(x, mean, var, None, None, *settings), weight, bias, channels_last=False)


def _layer_norm(rule: Rule, func: Any, args: Any, kwargs: Any) -> Any:
    call = _LAYER_NORM.bind(*args, **kwargs)
    call.apply_defaults()
    x, shape, weight, bias, eps = call.args
    if x.dim() <= len(shape):  # no index of examples in front
        return NotImplemented
    return _norm(rule, lambda: func(x, shape, None, None, eps), weight, bias, channels_last=True)


def _group_norm(rule: Rule, func: Any, args: Any, kwargs: Any) -> Any:
    call = _GROUP_NORM.bind(*args, **kwargs)
    call.apply_defaults()
    x, groups, weight, bias, eps = call.args
    return _norm(rule, lambda: func(x, groups, None, None, eps), weight, bias, channels_last=False)


def _norm(rule: Rule, normalise: Callable[[], Tensor], weight: Any, bias: Any, *, channels_last: bool) -> Any:
    if type(rule).affine is Rule.affine:
        return NotImplemented  # before running statistics have seen the batch
    return rule.affine(normalise(), weight, bias, channels_last=channels_last)


_LINEAR = inspect.signature(lambda input, weight, bias=None: None)
_CONV = inspect.signature(lambda input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1: None)
_BATCH_NORM = inspect.signature(functional.batch_norm)
_LAYER_NORM = inspect.signature(functional.layer_norm)
_GROUP_NORM = inspect.signature(functional.group_norm)
_FORMULAS: dict[Any, Callable[[Rule, Any, Any, Any], Any]] = {
    functional.linear: _linear,
    torch.conv1d: _conv,
    torch.conv2d: _conv,
    torch.conv3d: _conv,
    functional.batch_norm: _batch_norm,
    functional.layer_norm: _layer_norm,
    functional.group_norm: _group_norm,
}
_METADATA = frozenset(
    {
        *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "layout", "requires_grad")),
        *(getattr(Tensor, name).__get__ for name in ("is_cuda", "is_cpu", "is_quantized", "is_sparse", "itemsize")),
        *(getattr(Tensor, name) for name in ("size", "dim", "numel", "__len__", "is_floating_point", "is_complex")),
        *(getattr(Tensor, name) for name in ("stride", "is_contiguous", "element_size", "nelement", "get_device")),
        torch.is_floating_point,
        torch.numel,
    }
)
"""Questions about a parameter that do not touch its values."""

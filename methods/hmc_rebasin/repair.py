"""Activations of a mean network brought back to the size that they have in the samples (REPAIR).

Means over weights of many networks have activations that vary too little: the noise of the samples cancels, and so does
part of the signal. Where no normalisation mends that, each channel is rescaled (Jordan et al., arXiv 2211.08403).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmark import ConfigError, Split, evaluating, forward
from methods.finetuning.modes import norms

_DEAD = 1e-6
"""Standard deviation of a channel, relative to its goal, below which it counts as constant: only its mean is moved."""


@dataclass(frozen=True)
class Repair:
    """Channels rescaled: w <- gain w along axis 0, and for biases b <- gain b + shift.

    gain, shift: name of a parameter -> (channels,).
    """

    gain: Mapping[str, Tensor]
    shift: Mapping[str, Tensor]

    def applied(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The repaired weights; new tensors where something changes."""
        out = dict(weights)
        for name, gain in self.gain.items():
            out[name] = weights[name] * gain.view(-1, *[1] * (weights[name].ndim - 1))
        for name, shift in self.shift.items():
            out[name] = out[name] + shift
        return out


@dataclass(frozen=True)
class ChannelStatistics:
    """Mean and standard deviation (channels,), float64, of a layer's outputs over examples and positions."""

    mean: Tensor
    std: Tensor


def require_repairable(network: nn.Module) -> None:
    """Raise ConfigError for a network with running statistics."""
    if norms(network):
        raise ConfigError(
            "repair is for networks without running statistics; with BatchNorm these are estimated anew instead. "
            "Set repair: false."
        )


@torch.no_grad()
def repair(
    network: nn.Module,
    mean: Mapping[str, Tensor],
    goal: Mapping[str, ChannelStatistics],
    split: Split,
    batch_size: int = 256,
) -> Repair:
    """Rescale the channels of one network after another layer's, until they have the statistics of `goal`.

    Layers are mended in the order in which they run, each measured behind those that are mended already, so that the
    result is exact on `split` (one pass per layer). A layer without bias keeps its mean. mean: every parameter and
    buffer. goal: as of `average_channels`, in the order of running.

    Raises:
        ConfigError: the network has running statistics, which are to be reset instead.
    """
    require_repairable(network)
    current = dict(mean)
    gains: dict[str, Tensor] = {}
    shifts: dict[str, Tensor] = {}
    for path, wanted in goal.items():
        found = channel_statistics(network, current, [path], split, batch_size)[path]
        dead = found.std <= _DEAD * wanted.std
        gain = torch.where(dead, 1.0, wanted.std / found.std.where(~dead, 1.0))
        weight, bias = f"{path}.weight".removeprefix("."), f"{path}.bias".removeprefix(".")
        step = Repair({weight: gain.to(mean[weight].dtype)}, {})
        if bias in current:
            shift = wanted.mean - gain * found.mean
            step = Repair(dict.fromkeys((weight, bias), step.gain[weight]), {bias: shift.to(mean[bias].dtype)})
        current = step.applied(current)
        gains |= step.gain
        shifts |= step.shift
    return Repair(gains, shifts)


@torch.no_grad()
def average_channels(
    network: nn.Module, samples: Iterable[Mapping[str, Tensor]], split: Split, batch_size: int = 256
) -> dict[str, ChannelStatistics]:
    """What the channels of a mean network should have: mean and standard deviation in each sample, averaged.

    Of all convolutions and linear layers that are followed by more, in the order in which they run: all but the last.
    samples: aligned to the mean network; every parameter and buffer.

    Raises:
        ValueError: no sample.
    """
    layers = layers_before_the_head(network, split)
    totals: dict[str, ChannelStatistics] = {}
    count = 0
    for sample in samples:
        found = channel_statistics(network, sample, layers, split, batch_size)
        for path, one in found.items():
            before = totals.get(path)
            totals[path] = one if before is None else ChannelStatistics(before.mean + one.mean, before.std + one.std)
        count += 1
    if not count:
        raise ValueError("the statistics of channels are averages over samples; give at least one")
    return {path: ChannelStatistics(one.mean / count, one.std / count) for path, one in totals.items()}


@torch.no_grad()
def layers_before_the_head(network: nn.Module, split: Split) -> list[str]:
    """Paths of the layers that run before the last one, in the order in which they first run."""
    order: list[str] = []

    def note(path: str, *_: object) -> None:
        if path not in order:
            order.append(path)

    with ExitStack() as stack, evaluating(network):
        for path, module in network.named_modules():
            if is_layer(module):
                stack.callback(module.register_forward_hook(partial(note, path)).remove)
        network(split.first(1).inputs)
    return order[:-1]


@torch.no_grad()
def channel_statistics(
    network: nn.Module, weights: Mapping[str, Tensor], layers: Sequence[str], split: Split, batch_size: int = 256
) -> dict[str, ChannelStatistics]:
    """Of the outputs of these layers over a split, in eval mode; `network` is left as it was."""
    sums: dict[str, Tensor] = {}
    counts = dict.fromkeys(layers, 0)

    def add(path: str, module: nn.Module, _: object, output: Tensor) -> None:
        x = output.movedim(1, -1) if _is_convolution(module) else output
        x = x.reshape(-1, x.shape[-1]).double()
        found = torch.stack([x.sum(0), x.square().sum(0)])
        sums[path] = found if path not in sums else sums[path] + found
        counts[path] += len(x)

    with ExitStack() as stack, evaluating(network):
        for path in layers:
            stack.callback(network.get_submodule(path).register_forward_hook(partial(add, path)).remove)
        for inputs, _ in split.batches(batch_size):
            forward(network, weights, inputs)
    return {path: _statistics(sums[path] / counts[path]) for path in layers}


def is_layer(module: nn.Module) -> bool:
    """A convolution or a linear layer."""
    return isinstance(module, nn.Linear) or _is_convolution(module)


def _is_convolution(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)


def _statistics(moments: Tensor) -> ChannelStatistics:
    mean, square = moments
    return ChannelStatistics(mean, (square - mean.square()).clamp(min=0).sqrt())

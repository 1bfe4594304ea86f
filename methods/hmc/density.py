"""The log density of a network's posterior and its gradient, for all chains at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from benchmark import ConfigError, Split
from methods.finetuning.modes import norms
from methods.hmc.vectorised import Function, Traced, chain_ready, full_precision


class Evaluation(NamedTuple):
    """A density at C states.

    gradient: (C, P), of the log density (log_likelihood + log_prior) / T, in the dtype of the states. log_likelihood,
    log_prior: (C,) float64, without 1/T and without constants.
    """

    gradient: Tensor
    log_likelihood: Tensor
    log_prior: Tensor

    def where(self, accepted: Tensor, other: Evaluation) -> Evaluation:
        """Of `other` in the chains that are `accepted` (C,), else of this one."""
        return Evaluation(
            torch.where(accepted[:, None], other.gradient, self.gradient),
            torch.where(accepted, other.log_likelihood, self.log_likelihood),
            torch.where(accepted, other.log_prior, self.log_prior),
        )


class Target(Protocol):
    """What samplers draw from: exp((log likelihood + log prior) / T) over vectors of P numbers."""

    @property
    def parameters(self) -> int:
        """P."""

    @property
    def temperature(self) -> float:
        """T."""

    def gradient(self, states: Tensor) -> Evaluation:
        """At states (C, P), each chain on its own. The states are not kept; what is returned is not written again."""


class Density:
    """log p(w | D) = (1/T) [ -sum_n CE(f_w(x_n), y_n) - 1/2 sum_j (w_j / s_j)^2 ] over w, all trainable parameters in
    the order of `network.named_parameters()` laid end to end (Xiao, Liu, Bamler 2024, arXiv 2401.00611, section 2).

    The likelihood is that of the whole split, without augmentation. Dropout and stochastic depth are off. Where the
    network has BatchNorm, the split is the batch: statistics of the batch, nothing is averaged. Frozen parameters and
    buffers stay what they are now. The network is copied and never touched.

    split: on any device; moved to the network's. scales: s by name, for every trainable parameter (`prior_scales`).
    data_chunk: examples per pass, where memory is short; the sum is the same.

    Raises:
        ConfigError: `data_chunk` with BatchNorm.
        ValueError: `scales` lacks a trainable parameter or names another.
    """

    def __init__(
        self,
        network: nn.Module,
        split: Split,
        scales: Mapping[str, float],
        *,
        temperature: float = 1.0,
        data_chunk: int | None = None,
    ) -> None:
        trainable = {name: value for name, value in network.named_parameters() if value.requires_grad}
        if set(scales) != set(trainable):
            odd = sorted(set(scales) ^ set(trainable))[0]
            raise ValueError(f"scales must name the {len(trainable)} trainable parameters; '{odd}' is only in one")
        if data_chunk is not None and any(isinstance(module, _BatchNorm) for module in network.modules()):
            raise ConfigError(
                f"data_chunk {data_chunk} cannot be used with BatchNorm, whose batch is the whole training set. "
                "Leave data_chunk out, take sampler: sghmc, or a network with LayerNorm or GroupNorm."
            )
        self.shapes = {name: value.shape for name, value in trainable.items()}
        self.temperature = temperature
        self.device = next(iter(trainable.values())).device
        self._sizes = [shape.numel() for shape in self.shapes.values()]
        each = torch.tensor([scales[name] for name in self.shapes], dtype=torch.float64)
        self.scales = each.repeat_interleave(torch.tensor(self._sizes)).to(self.device)
        """s of every element, (P,) float64."""
        self._half_precision = -0.5 * self.scales**-2
        self._network, self._split = _with_batch_statistics(chain_ready(network)), split.to(self.device)
        self._chunk = data_chunk or len(split)
        self._functions: dict[torch.dtype, tuple[Function, Split, Tensor]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters that make up a state, in order."""
        return tuple(self.shapes)

    @property
    def parameters(self) -> int:
        """P."""
        return sum(self._sizes)

    def flatten(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The state (P,), a copy, of weights by name; others than the trainable parameters are passed over.

        Raises:
            ValueError: a trainable parameter is missing, or has another shape.
        """
        for name, shape in self.shapes.items():
            if name not in weights or weights[name].shape != shape:
                found = tuple(weights[name].shape) if name in weights else "no tensor"
                raise ValueError(f"a state needs '{name}' of shape {tuple(shape)}; got {found}")
        return torch.cat([weights[name].detach().reshape(-1) for name in self.shapes])

    def weights(self, states: Tensor) -> dict[str, Tensor]:
        """Views of states (..., P) by name, each (..., *shape)."""
        pieces = states.split(self._sizes, dim=-1)
        return {
            name: piece.view(*states.shape[:-1], *shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

    def gradient(self, states: Tensor) -> Evaluation:
        """At states (C, P), float32 or float64, on the network's device; everything is computed in their dtype, sums
        over examples and over weights in float64."""
        function, split, precision = self._in(states.dtype)
        states = states.detach()
        gradient = states * -precision
        log_likelihood = states.new_zeros(len(states), dtype=torch.float64)
        with full_precision(states.device), sdpa_kernel(SDPBackend.MATH):  # others have no batched form
            for inputs, labels in split.batches(self._chunk):
                part, value = function(states, inputs, labels)
                gradient += part
                log_likelihood += value
        if self.temperature != 1:
            gradient /= self.temperature
        return Evaluation(gradient, log_likelihood, states.double().square() @ self._half_precision)

    def _in(self, dtype: torch.dtype) -> tuple[Function, Split, Tensor]:
        """Gradient of the likelihood, data and prior precisions for states of a dtype."""
        if dtype not in self._functions:
            network = self._network if dtype == torch.float32 else chain_ready(self._network).to(dtype)
            function = Traced(_likelihood_gradient(self, network, dtype))
            self._functions[dtype] = (function, self._split, (self.scales**-2).to(dtype))
        return self._functions[dtype]


def _likelihood_gradient(density: Density, network: nn.Module, dtype: torch.dtype) -> Function:
    """(states (C, P), inputs, labels) -> gradient (C, P) and value (C,) float64 of the log likelihood."""

    def log_likelihood(state: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = functional_call(network, density.weights(state), (inputs,))  # (n, K)
        return logits.t().log_softmax(0).gather(0, labels[None]).double().sum()

    over_chains = torch.vmap(log_likelihood, in_dims=(0, None, None))

    def both(states: Tensor, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = states.detach().requires_grad_()
            values = over_chains(leaf, inputs.to(dtype), labels)
            (gradient,) = torch.autograd.grad(
                values.sum(), leaf
            )  # chains do not meet: the sum's gradient is each one's
        return gradient, values.detach()

    return both


def _with_batch_statistics(network: nn.Module) -> nn.Module:
    """The network in eval mode, but norms with running statistics use those of the batch and average nothing."""
    tracking = norms(network)
    network.eval()
    for norm in tracking:
        norm.training, norm.track_running_stats = True, False
    return network

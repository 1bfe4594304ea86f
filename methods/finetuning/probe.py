"""Whether a network really uses the weights it is handed: checked once before a fit, on a few examples."""

from __future__ import annotations

import logging

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmark import ConfigError, Split, forward, weights_of
from methods.finetuning.modes import only_norms_training
from methods.finetuning.points import floating
from methods.finetuning.select import Selection

log = logging.getLogger("bnnbench")

EXAMPLES = 16
RELATIVE_NOISE = 0.1


def keep_used(network: nn.Module, selection: Selection, examples: Split, seed: int) -> Selection:
    """The selection with parameters frozen, and named in a warning, that the forward pass does not use.

    Raises:
        ConfigError: no replaced weight changes the logits or receives a gradient (cached or fused weights, `.data`).
    """
    examples = examples.first(EXAMPLES)
    inputs = examples.inputs
    perturbed = selection.bayesian or selection.trained
    generator = torch.Generator(examples.device).manual_seed(seed)
    own = {name: floating(tensor) for name, tensor in weights_of(network).items()}
    weights = {name: tensor.clone() for name, tensor in own.items()}
    for name in perturbed:
        noise = torch.randn(own[name].shape, device=own[name].device, generator=generator)
        weights[name] += RELATIVE_NOISE * own[name].square().mean().sqrt().clamp(min=0.01) * noise
    for name in selection.bayesian + selection.trained:
        weights[name].requires_grad_()
    with only_norms_training(network, False):
        with torch.no_grad():
            plain = forward(network, own, inputs)
        logits = forward(network, weights, inputs)
        if logits.requires_grad:
            cross_entropy(logits, examples.labels).backward()
    unused = [name for name in selection.bayesian + selection.trained if weights[name].grad is None]
    if torch.equal(plain, logits.detach()) or set(perturbed) <= set(unused):
        raise ConfigError(
            "the network ignores replaced weights: perturbing its parameters by torch.func.functional_call does not "
            "change its output. Caches, fused kernels and use of `.data` do this; switch them off in the network."
        )
    if unused:
        log.warning("%d parameters are not used by the forward pass and stay as they are: %s", len(unused), unused[:5])
    return selection.without(unused)

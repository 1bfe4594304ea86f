"""The exact gradient of an attack's objective with respect to the inputs, over all draws that a prediction uses.

The objective is a function of the log-probabilities of all draws, so its gradient needs all of them before the first
backward pass. One pass over the draws collects their logits, the gradient with respect to these says how much each
matters, and a second pass carries that back through one network at a time: memory is that of one draw's activations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.contracts import Posterior, Weights
from benchmark.errors import PluginError
from benchmark.predict import entropies, own_score
from benchmark.weights import forward

Objective = Callable[[Tensor, Tensor], Tensor]
"""(log-probabilities (S, n, K) in float64, labels (n,)) -> (n,), larger = better for the attacker."""
TINY = 1e-300


def pooled(log_probs: Tensor) -> Tensor:
    """Log of the mean probability (n, K) of draws (S, n, K)."""
    return log_probs.logsumexp(dim=0) - math.log(len(log_probs))


def nll(log_probs: Tensor, labels: Tensor) -> Tensor:
    """-ln mean_s p_s(y | x), (n,). Its gradient weighs each draw s by its responsibility p_s(y|x) / sum_t p_t(y|x)."""
    return -pooled(log_probs).gather(1, labels[:, None]).squeeze(1)


def nll_without_entropy(log_probs: Tensor, labels: Tensor) -> Tensor:
    """NLL minus the entropy of the mean prediction, (n,)."""
    return nll(log_probs, labels) - entropies(pooled(log_probs))


def nll_without_mutual_information(log_probs: Tensor, labels: Tensor) -> Tensor:
    """NLL minus the mutual information between prediction and draw, (n,)."""
    return nll_without_entropy(log_probs, labels) + entropies(log_probs).mean(dim=0)


@dataclass(frozen=True)
class Victim:
    """What is attacked: the network in eval mode, the posterior's link and score, the weights of every draw."""

    network: nn.Module
    posterior: Posterior
    draws: Sequence[Weights]

    def logits(self, weights: Weights, inputs: Tensor) -> Tensor:
        """Logits (n, K) of one draw, with a graph when `inputs` asks for one."""
        return forward(self.network, weights, inputs)

    def log_probs(self, logits: Tensor) -> Tensor:
        """Log class probabilities (S, n, K) of the logits (S, n, K) of all draws, by the posterior's link."""
        return torch.stack([self.posterior.log_probs(one) for one in logits])


def gradient(victim: Victim, inputs: Tensor, labels: Tensor, objective: Objective) -> Tensor:
    """d objective / d inputs, (n, C, H, W) float64, each example on its own. inputs: one micro-batch (n, C, H, W)."""
    with torch.no_grad():
        logits = torch.stack([victim.logits(weights, inputs).double() for weights in victim.draws])
    with torch.enable_grad():
        leaf = logits.requires_grad_()
        (cotangents,) = torch.autograd.grad(objective(victim.log_probs(leaf), labels).sum(), leaf)
    # Of a confident network they are far below what float32 holds: they pass through it as directions, of size 1.
    scale = cotangents.abs().amax(dim=(0, 2)).clamp(min=TINY)
    total = torch.zeros_like(inputs, dtype=torch.float64)
    for weights, cotangent in zip(victim.draws, cotangents / scale[:, None], strict=True):
        with torch.enable_grad():
            leaf = inputs.detach().requires_grad_()
            made = victim.logits(weights, leaf)
            (part,) = torch.autograd.grad(made, leaf, cotangent.to(made.dtype))
        total += part
    return total * scale.view(-1, 1, 1, 1)


def score_gradient(victim: Victim, inputs: Tensor) -> Tensor:
    """d score / d inputs, (n, C, H, W) float64, of the posterior's own score.

    Raises:
        PluginError: the score does not depend on the inputs in a way that can be differentiated.
    """
    with torch.enable_grad():
        leaf = inputs.detach().requires_grad_()
        score = own_score(victim.network, victim.posterior, victim.draws, leaf)
        if score is None or not score.requires_grad:
            raise PluginError(
                f"{type(victim.posterior).__name__}.score is not differentiable with respect to its inputs; an "
                "adaptive attack needs that. Is it computed under torch.no_grad, or with detached tensors?"
            )
        (found,) = torch.autograd.grad(score.sum(), leaf)
    return found.double()

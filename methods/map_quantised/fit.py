"""`map_quantised`, from the base network to the posterior: scale, bin, cluster, and match bytes where asked to."""

from __future__ import annotations

import functools

import torch
from torch import nn

from benchmark import (
    BitWriter,
    ConfigError,
    Fact,
    Posterior,
    Problem,
    RunContext,
    draw_log_probs,
    evaluating,
    require_finite,
    weights_of,
)
from methods.finetuning.select import layer_weights
from methods.map_quantised.config import MOST_COMPONENTS, MapQuantisedConfig
from methods.map_quantised.kmeans1d import POWERS, Cells, Clusters, kmeans
from methods.map_quantised.match import largest_within
from methods.map_quantised.posterior import Quantised, QuantisedPoint

CODEWORD_BYTES = 5
"""Forecast of a component's share of the file: a float32, and about a byte in the table of the labels' coder."""


def fit_quantised(problem: Problem, ctx: RunContext, config: MapQuantisedConfig) -> QuantisedPoint:
    """The base weights (those of `problem.network`), each on one of K values."""
    quantiser = Quantiser(problem.network)
    facts: dict[str, Fact] = {}
    if config.components is not None:
        clusters = kmeans(quantiser.cells, config.components)
    else:
        facts["target_bytes"] = target = _bytes_to_match(ctx)
        clusters = quantiser.clusters_within(target)
    posterior = quantiser.posterior(clusters)
    facts |= quantiser.facts(clusters)
    if problem.val is not None:
        with evaluating(problem.network):
            log_probs = draw_log_probs(problem.network, posterior, posterior.weights, problem.val)  # (n, C) float64
        facts["val_nll"] = float(torch.nn.functional.nll_loss(log_probs, problem.val.labels))
    ctx.log(**facts)
    ctx.progress(1, 1)
    return quantiser.posterior(clusters, facts)


class Quantiser:
    """One network's weights, each tensor in units of its standard deviation r, binned once for every K.

    All on the CPU: on a GPU the last bits of the cells' sums would depend on the order of its threads.
    """

    def __init__(self, network: nn.Module) -> None:
        """
        Raises:
            ConfigError: there is no weight to quantise.
            Diverged: a weight is not finite; names the tensor.
        """
        self._network = network
        weights = {name: tensor.detach().cpu() for name, tensor in weights_of(network).items()}
        scale = {name: _scale(name, weights[name]) for name in layer_weights(network)}
        scale = {name: r for name, r in scale.items() if r > 0}  # a constant tensor has no unit and stays as it is
        if not scale:
            raise ConfigError(
                "'map_quantised' finds no weights of linear, convolutional or attention layers, other than constant "
                "ones, in this network; leave it out of the study for this network."
            )
        self._scale = torch.tensor(list(scale.values()), dtype=torch.float32)
        self._shapes = {name: weights[name].shape for name in scale}
        self._rest = {name: tensor for name, tensor in weights.items() if name not in scale}
        scaled = [weights[name].reshape(-1) / r for name, r in zip(scale, self._scale, strict=True)]
        self.cells = Cells.binned(torch.cat(scaled))

    def posterior(self, clusters: Clusters, facts: dict[str, Fact] | None = None) -> QuantisedPoint:
        """The network with its weights at the centres of their clusters."""
        labels, codebook = clusters.labels(self.cells), clusters.centre.float()
        return QuantisedPoint(self._network, Quantised(self._shapes, labels, codebook, self._scale), self._rest, facts)

    def facts(self, clusters: Clusters) -> dict[str, Fact]:
        """weights: N. components: K, values in use. rel_mse: sum (x - q)^2 / sum (x - mean)^2 over the scaled weights.
        index_entropy_bits: entropy of a label."""
        return {
            "weights": len(self.cells.of),
            "components": len(clusters),
            "rel_mse": clusters.distortion(self.cells) / self.cells.variation,
            "index_entropy_bits": clusters.entropy_bits,
        }

    def clusters_within(self, target: int) -> Clusters:
        """The largest number of clusters whose file has at most `target` bytes.

        Raises:
            ConfigError: not even one cluster has.
        """
        clusters = functools.cache(lambda k: kmeans(self.cells, k))
        size = functools.cache(lambda k: encoded_bytes(self.posterior(clusters(k))))

        @functools.cache
        def estimate(k: int) -> float:
            rough = kmeans(self.cells, k, POWERS[:1])
            return CODEWORD_BYTES * len(rough) + len(self.cells.of) * rough.entropy_bits / 8

        k = largest_within(target, size, estimate, min(MOST_COMPONENTS, len(self.cells)))
        if k == 0:
            raise ConfigError(
                f"the file of the run to match (bytes_of) has {target} bytes; that of 'map_quantised' has {size(1)} "
                "even with a single value, for what is not quantised. Give components in place of bytes_of."
            )
        return clusters(k)


def encoded_bytes(posterior: Posterior) -> int:
    """Length of the file of a posterior."""
    out = BitWriter()
    posterior.encode(out)
    return len(out.finish())


def _bytes_to_match(ctx: RunContext) -> int:
    if len(ctx.needed) != 2:
        raise ConfigError(
            f"'map_quantised' with bytes_of needs two runs, 'map' and the one to match, and got {len(ctx.needed)}."
        )
    return encoded_bytes(ctx.needed[1].posterior)


def _scale(name: str, weight: torch.Tensor) -> float:
    r = float(weight.double().std(correction=0))
    require_finite(r, f"the standard deviation of '{name}'", "Look at the run of 'map' that this one starts from.")
    return r

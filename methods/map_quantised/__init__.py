"""`map_quantised`: the base network with every weight rounded to one of K values (Han, Mao, Dally, ICLR 2016).

This module only declares; what computes is imported when a run starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark import Method, Need, Problem, RunContext
from methods.map_quantised.config import MapQuantisedConfig

if TYPE_CHECKING:
    from methods.map_quantised.posterior import QuantisedPoint


class MapQuantised(Method):
    """A point: the weights of `map` replaced by the centres of a k-means clustering; labels are entropy-coded.

    Weight sharing of Han, Mao, Dally: Deep compression, ICLR 2016, without pruning and without retraining. With
    `bytes_of` it is the deterministic row beside a compressed posterior: as many values as the bytes of that run allow.
    """

    name = "map_quantised"
    Config = MapQuantisedConfig

    def needs(self, config: MapQuantisedConfig) -> tuple[Need, ...]:
        base = Need("map")
        return (base,) if config.bytes_of is None else (base, Need(config.bytes_of.method, config.bytes_of.settings))

    def fit(self, problem: Problem, ctx: RunContext, config: MapQuantisedConfig) -> QuantisedPoint:
        """The quantised base network; trains nothing and takes no checkpoint.

        Raises:
            ConfigError: the network has no weight to quantise; the file of `bytes_of` is smaller than that of K = 1.
            Diverged: a weight of the base network is not finite.
        """
        from methods.map_quantised.fit import fit_quantised

        return fit_quantised(problem, ctx, config)

    def posterior_type(self) -> type[QuantisedPoint]:
        from methods.map_quantised.posterior import QuantisedPoint

        return QuantisedPoint

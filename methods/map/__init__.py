"""`map`: the base network, trained by maximum a posteriori; every other method starts from it or is compared with it.

This module only declares; what computes is imported when a run starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark import Method, Problem, RunContext
from methods.map.config import MapConfig

if TYPE_CHECKING:
    from methods.map.posterior import TrainedPoint


class Map(Method):
    """Cross-entropy plus L2 from the weights that the network starts with; the epoch of lowest validation NLL is kept.

    `epochs: 0` trains nothing: a pretrained network as it is becomes the base of the other methods.
    """

    name = "map"
    Config = MapConfig
    parallel = True

    def fit(self, problem: Problem, ctx: RunContext, config: MapConfig) -> TrainedPoint:
        """A point mass on the trained weights.

        Raises:
            Diverged: the loss or a weight became non-finite.
            ConfigError: `patience` is set but the task has no validation split; `precision: bf16` on a GPU without it;
                several devices that cannot share the parts of a batch evenly.
        """
        from methods.map.member import fit_member

        return fit_member(problem, ctx, config)

    def posterior_type(self) -> type[TrainedPoint]:
        from methods.map.posterior import TrainedPoint

        return TrainedPoint

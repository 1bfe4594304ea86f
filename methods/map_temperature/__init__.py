"""`map_temperature`: the base network with one temperature, fitted on validation data (Guo et al. 2017).

This module only declares; what computes is imported when a run starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark import Method, MethodConfig, Need, Problem, RunContext

if TYPE_CHECKING:
    from methods.map_temperature.posterior import TemperedPoint


class MapTemperature(Method):
    """softmax(logits / T): what is gained by the scale of the logits alone. Accuracy is that of `map`.

    Guo, Pleiss, Sun, Weinberger: On calibration of modern neural networks, ICML 2017. The validation split has also
    chosen the epoch of `map`; one number is fitted to it here.
    """

    name = "map_temperature"
    Config = MethodConfig

    def needs(self, config: MethodConfig) -> tuple[Need, ...]:
        return (Need("map"),)

    def fit(self, problem: Problem, ctx: RunContext, config: MethodConfig) -> TemperedPoint:
        """A point mass on the base weights whose link divides the logits by T.

        Raises:
            ConfigError: the task has no validation split.
            Diverged: the base network gives non-finite logits on validation inputs.
        """
        from methods.map_temperature.fit import fit_temperature

        return fit_temperature(problem, ctx)

    def posterior_type(self) -> type[TemperedPoint]:
        from methods.map_temperature.posterior import TemperedPoint

        return TemperedPoint

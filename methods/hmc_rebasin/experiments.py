"""What a run of `hmc_rebasin` looks at besides its posterior: by the names of the setting `experiments`."""

from __future__ import annotations

from collections.abc import Callable

from benchmark import Fact
from methods.hmc_rebasin.comparison import compare_run, compared_runs
from methods.hmc_rebasin.inputs import Material
from methods.hmc_rebasin.lags import transpositions_by_lag
from methods.hmc_rebasin.lines import barriers
from methods.hmc_rebasin.performance import performance
from methods.hmc_rebasin.planted import planted_transpositions
from methods.hmc_rebasin.pruning_curve import pruning_curve

EXPERIMENTS: dict[str, Callable[[Material], dict[str, Fact]]] = {
    "transpositions": transpositions_by_lag,
    "barriers": barriers,
    "performance": performance,
    "pruning": pruning_curve,
    "planted": planted_transpositions,
}
"""Name -> what makes the figure with its numbers, logs records and returns facts."""


def run_experiments(material: Material) -> dict[str, Fact]:
    """All experiments of the settings, in their order, then the comparisons; their facts.

    Raises:
        ConfigError: a run that is to be compared is a point; said before anything is computed.
    """
    compared = compared_runs(material)
    facts: dict[str, Fact] = {}
    for name in material.config.experiments:
        facts |= EXPERIMENTS[name](material)
    for one in compared:
        facts |= compare_run(material, one)
    return facts

"""Fitting the temperature of the base network."""

from __future__ import annotations

from benchmark import (
    ConfigError,
    PointMass,
    Problem,
    RunContext,
    draw_log_probs,
    evaluating,
    require_finite,
    weights_of,
)
from methods.map_temperature.posterior import TemperedPoint
from methods.map_temperature.scale import fit_scale, scaled_nll


def fit_temperature(problem: Problem, ctx: RunContext) -> TemperedPoint:
    """The base weights (those of `problem.network`) and the T of lowest validation NLL; takes no checkpoint."""
    if problem.val is None:
        raise ConfigError(
            "'map_temperature' fits its temperature on validation data, and this task has no validation split.\n"
            "  Let the task hold out validation data, or leave 'map_temperature' out of the study for this task."
        )
    base = PointMass(weights_of(problem.network))
    with evaluating(problem.network):
        log_probs = draw_log_probs(problem.network, base, base.weights, problem.val)  # (n, K) float64
    before = scaled_nll(log_probs, problem.val.labels, 1.0)
    require_finite(before, "the base network's validation NLL", "Look at the run of 'map' that this one starts from.")
    scale = fit_scale(log_probs, problem.val.labels)
    after = scaled_nll(log_probs, problem.val.labels, scale.temperature)
    ctx.log(val_nll_before=before, val_nll=after, temperature=scale.temperature)
    ctx.progress(1, 1)
    return TemperedPoint(
        base.weights,
        scale.temperature,
        {"temperature": scale.temperature, "at_bound": scale.at_bound, "val_nll_before": before, "val_nll": after},
    )

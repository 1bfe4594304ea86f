"""Making one posterior of the members' runs."""

from __future__ import annotations

from benchmark import ConfigError, RunContext, Weights, WeightSamples


def collect(ctx: RunContext, members: int) -> WeightSamples:
    """The mean weights of the needed runs, member 0 first."""
    if len(ctx.needed) != members:
        raise ConfigError(f"'deep_ensemble' of {members} members needs {members} runs of 'map', got {len(ctx.needed)}.")
    found: list[Weights] = []
    for index, run in enumerate(ctx.needed):
        weights = run.posterior.mean()
        if weights is None:
            raise ConfigError(f"'deep_ensemble': member {index} (a run of '{run.method}') has no mean weights.")
        found.append(weights)
    ctx.progress(members, members)
    return WeightSamples(found)

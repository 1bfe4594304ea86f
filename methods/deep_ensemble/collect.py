"""Making one posterior of the members' runs."""

from __future__ import annotations

from benchmark import ConfigError, RunContext, Weights, WeightSamples


def collect(ctx: RunContext, members: int, draws: int) -> WeightSamples:
    """The mean weights of the needed runs, member 0 first.

    Raises:
        ConfigError: fewer draws than members, so that stored members would never predict; or a member is missing.
    """
    if draws < members:
        raise ConfigError(
            f"the protocol predicts with {draws} draws, the ensemble has {members} members: some would be stored and "
            f"never used. Set 'draws: {members}' or more, or 'members: {draws}'."
        )
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

"""The samples of a run in one labelling, by the settings of a row."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from benchmark import ConfigError, Problem, RunContext
from methods.hmc.posterior import ChainSamples
from methods.hmc_rebasin.config import AlignedConfig
from methods.symmetry.activation_matching import Activations
from methods.symmetry.align import Aligned, align
from methods.symmetry.check import check_groups
from methods.symmetry.discover import groups_of
from methods.symmetry.groups import PermutationGroups
from methods.symmetry.match import Matching
from methods.symmetry.stack import Samples


def checked_groups(network: nn.Module, problem: Problem) -> PermutationGroups:
    """The network's groups, after random permutations of them have been shown to leave the function as it is.

    Raises:
        UnsupportedArchitecture: they are not known.
        ValueError: those that the network declares are wrong.
    """
    groups = groups_of(network)
    check_groups(network, groups, problem.input_shape)
    return groups


def matching_of(problem: Problem, ctx: RunContext, config: AlignedConfig, groups: PermutationGroups) -> Matching:
    """How two samples are matched. Weights count alike, or in units of the prior's deviations where these differ from
    tensor to tensor."""
    table = ctx.needed[0].config.get("prior_std")
    activations = None
    if config.matching == "activation":
        train = problem.train.first(problem.n_train)
        normalise = None if config.normalise == "none" else config.normalise
        activations = Activations(problem.network, groups, train, normalise=normalise)
    return Matching(
        config.matching,
        restarts=config.restarts,
        seed=ctx.seed_for("matching") % 2**31,
        scales=table if isinstance(table, Mapping) else None,
        within_head=config.within_head,
        activations=activations,
    )


def aligned_samples(
    problem: Problem, ctx: RunContext, config: AlignedConfig, groups: PermutationGroups, samples: Samples
) -> Aligned:
    """All samples relabelled alike."""
    return align(groups, samples, reference=config.reference, matching=matching_of(problem, ctx, config, groups))


def samples_of_run(ctx: RunContext) -> tuple[ChainSamples, int]:
    """The needed run's stored states, and how many were dropped because they hold numbers that are not finite: where
    there are any, the others come as one chain.

    Raises:
        ConfigError: it is no run of `hmc`, or has a single state, which has no spread.
    """
    run = ctx.needed[0] if ctx.needed else None
    if run is None or not isinstance(run.posterior, ChainSamples):
        found = "nothing" if run is None else f"a run of '{run.method}'"
        raise ConfigError(f"the samples of 'hmc' are summarised, and {found} was handed over.")
    samples = run.posterior.finite()
    if samples.support < 2:
        raise ConfigError(
            f"a summary needs at least 2 samples, and the run of 'hmc' has {samples.support}. Raise 'keep', 'chains' "
            "or 'snapshots' of 'sampling'."
        )
    return samples, run.posterior.support - samples.support

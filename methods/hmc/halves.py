"""How far apart the predictions of a sampler's own two halves are: about twice the Monte-Carlo error of all of them."""

from __future__ import annotations

from benchmark import Fact, Problem
from methods.hmc.posterior import ChainSamples
from methods.map.evaluation import agreement, predictive, total_variation


def distance_of_halves(problem: Problem, posterior: ChainSamples) -> dict[str, Fact]:
    """agreement_halves, tv_halves: share of equal arg-max and mean total variation between the first half of the chains
    and the others, or of one chain's states, on validation data (training data where there are none).

    Two estimates of half the states each differ by about twice what an exact row would differ from all of them. Nothing
    where there are fewer than two states."""
    if posterior.support < 2:
        return {}
    by_chain = posterior.chains > 1
    count = posterior.chains if by_chain else posterior.per_chain
    split = problem.train.first(len(problem.train)) if problem.val is None else problem.val
    halves: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for chain in range(posterior.chains):
        for state in range(posterior.per_chain):
            halves[(chain if by_chain else state) >= count // 2].append((chain, state))
    one, other = (
        predictive(problem.network, (posterior.weights(*place) for place in places), split) for places in halves
    )
    return {"agreement_halves": agreement(one, other), "tv_halves": min(total_variation(one, other), 1.0)}

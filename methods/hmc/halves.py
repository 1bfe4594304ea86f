"""How far apart the predictions of a sampler's own two halves are: about twice the Monte-Carlo error of all of them."""

from __future__ import annotations

import torch

from benchmark import Fact, Pool, Problem, draw_log_probs, evaluating
from methods.hmc.posterior import ChainSamples


def distance_of_halves(problem: Problem, posterior: ChainSamples) -> dict[str, Fact]:
    """agreement_halves, tv_halves: share of equal arg-max and mean total variation between the first half of the chains
    and the others, or of one chain's states, on validation data (training data where there are none).

    Two estimates of half the states each differ by about twice what an exact row would differ from all of them. Nothing
    where there are fewer than two states."""
    if posterior.support < 2:
        return {}
    by_chain = posterior.chains > 1
    count = posterior.chains if by_chain else posterior.per_chain
    pools = Pool(), Pool()
    split = problem.train.first(len(problem.train)) if problem.val is None else problem.val
    with evaluating(problem.network):
        for chain in range(posterior.chains):
            for state in range(posterior.per_chain):
                half = (chain if by_chain else state) >= count // 2
                pools[half].add(draw_log_probs(problem.network, posterior, posterior.weights(chain, state), split))
    one, other = (pool.result().log_probs.double() for pool in pools)
    agreement = (one.argmax(1) == other.argmax(1)).double().mean()
    variation = 0.5 * (one.exp() - other.exp()).abs().sum(1).mean()
    return {"agreement_halves": float(agreement), "tv_halves": float(torch.clamp(variation, max=1.0))}

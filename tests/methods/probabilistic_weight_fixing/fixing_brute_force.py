"""A clustering round the slow way: all distances to all candidates, again for every pick."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from methods.fixed_weights.fixing import Fixing
from methods.probabilistic_weight_fixing.candidates import candidate_codes
from methods.probabilistic_weight_fixing.settings import FixingSettings

Pick = tuple[int, int, int, float]


class BruteForce:
    """A copy of the weights as numpy arrays, clustered by `fix_round`."""

    def __init__(self, weights: Fixing, settings: FixingSettings) -> None:
        self.mu, self.sigma, self.fixed, self.code = (
            values.numpy().copy() for values in (weights.mu, weights.sigma, weights.fixed, weights.code)
        )
        self.unit, self.b, self.settings = np.float32(2.0**-weights.b), weights.b, settings

    def fix_round(self, target: int, delta: float) -> list[Pick]:
        settings, picks = self.settings, []
        left = target - int(self.fixed.sum())
        omega, counter = 1, 1
        while left > 0:
            largest = float(np.abs(self.mu[~self.fixed]).max())
            alive = candidate_codes(omega, largest, self.b).tolist()
            while left > 0 and alive:
                code, votes = self.most_voted(alive, delta)
                members = self.members(code, delta)
                if votes == 0 or not len(members):
                    break
                if len(members) > left:
                    order = np.lexsort((members, self.distance(code)[members]))
                    members = members[order[:left]]
                self.join(members, code)
                picks.append((code, len(members), omega, delta))
                left -= len(members)
                alive.remove(code)
            if omega < settings.omega_max and counter % 2 == 1:
                omega += 1
            else:
                delta *= settings.inc
            counter += 1
        return picks

    def distance(self, code: int) -> NDArray[np.float32]:
        return np.abs(self.mu - code * self.unit) / np.maximum(self.sigma, np.float32(2.0**-20))

    def counts_for(self, codes: list[int], delta: float) -> NDArray[np.bool_]:
        """(K, N): free weights within delta of the values; for 0 the small ones, too."""
        r = np.float32(delta) * np.maximum(self.sigma, np.float32(2.0**-20))
        values = np.array(codes, dtype=np.float32)[:, None] * self.unit
        counts = (self.mu - r <= values) & (values <= self.mu + r)
        if 0 in codes:
            counts[codes.index(0)] |= self.forced(0)
        return counts & ~self.fixed

    def forced(self, code: int) -> NDArray[np.bool_]:
        return (np.abs(self.mu) < self.unit) & (code == 0 and self.settings.zero_fix)

    def most_voted(self, alive: list[int], delta: float) -> tuple[int, int]:
        if self.settings.count == "coverage":
            votes = self.counts_for(alive, delta).sum(1).tolist()
        else:
            free = self.mu[~self.fixed].astype(np.float64)
            distances = np.abs(free[:, None] - np.array(alive) * float(self.unit))
            nearest = distances.argmin(1)
            if 0 in alive:
                nearest[self.forced(0)[~self.fixed]] = alive.index(0)
            votes = np.bincount(nearest, minlength=len(alive)).tolist()
        best = max(range(len(alive)), key=lambda k: (votes[k], -alive[k]))
        return alive[best], votes[best]

    def members(self, code: int, delta: float) -> NDArray[np.int64]:
        if self.settings.membership == "max":
            return self.counts_for([code], delta)[0].nonzero()[0]
        distance = np.where(self.forced(code), np.float32(0), self.distance(code))
        free = (~self.fixed).nonzero()[0]
        order = free[np.argsort(distance[free], kind="stable")]
        means = np.cumsum(distance[order].astype(np.float64)) / np.arange(1, len(order) + 1)
        return order[means <= delta]

    def join(self, members: NDArray[np.int64], code: int) -> None:
        old = self.mu[members].astype(np.float64)
        join = self.settings.sigma_join
        if join == "std_mu":
            self.sigma[members] = old.std()
        elif join != "keep":
            self.sigma[members] = np.maximum(self.sigma[members], np.float32(2.0**-20)) / (10 if join == "div10" else 2)
        self.mu[members], self.code[members], self.fixed[members] = code * self.unit, code, True

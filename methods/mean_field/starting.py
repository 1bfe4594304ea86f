"""Sigma before the first step: searched once per run, remembered by its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmark import Fact, Split
from methods.finetuning.search import Outcome
from methods.mean_field.config import SigmaInit
from methods.mean_field.search import Around, search_sigma
from methods.mean_field.sigma import Initial, initial_log_sd


class StartingSigma:
    """The rule `init`, at most the prior's ln s0; its value given, or found by `search`."""

    def __init__(self, init: SigmaInit, prior_log_sd: float, seed: int) -> None:
        self._given, self._prior_log_sd, self._seed = init, prior_log_sd, seed
        self._searched = Outcome()

    @property
    def init(self) -> SigmaInit:
        """The rule with the value in use."""
        value = self._searched.value
        return self._given if value is None else self._given.model_copy(update={"value": value})

    def search(self, around: Around, val: Split) -> dict[str, float]:
        """Choose the value on validation data; returns what to log: `nll@VALUE` of every candidate."""
        return self._searched.remember(search_sigma(around, self._given, self._prior_log_sd, val))

    def initial(self, weights: Mapping[str, Tensor]) -> Initial:
        """psi for these weights; the same on every call with equal weights."""
        device = next(iter(weights.values())).device
        generator = torch.Generator(device).manual_seed(self._seed)
        return initial_log_sd(weights, self.init, self._prior_log_sd, generator)

    def facts(self) -> dict[str, Fact]:
        """sigma_init; sigma_scale, its value, where it has one; sigma_search_at_edge, where it was searched."""
        facts: dict[str, Fact] = {"sigma_init": self._given.kind}
        scale = getattr(self.init, "value", None)
        if scale is not None:
            facts["sigma_scale"] = scale
        if self._searched.value is not None:
            facts["sigma_search_at_edge"] = self._searched.at_edge
        return facts

    def state_dict(self) -> dict[str, Any]:
        return self._searched.state_dict()

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self._searched.load_state_dict(saved)

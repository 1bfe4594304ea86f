"""Sigma before the first step: searched once per run, remembered by its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmark import Split
from methods.mean_field.config import SEARCHABLE, SigmaInit
from methods.mean_field.posterior import Fact
from methods.mean_field.search import Around, search_sigma
from methods.mean_field.sigma import Initial, initial_log_sd


class StartingSigma:
    """The rule `init`, at most the prior's ln s0; its value given, or found by `search`."""

    def __init__(self, init: SigmaInit, prior_log_sd: float, seed: int) -> None:
        self._init, self._prior_log_sd, self._seed = init, prior_log_sd, seed
        self._at_edge: bool | None = None

    def search(self, around: Around, val: Split) -> dict[str, float]:
        """Choose the value on validation data; returns what to log: `nll@VALUE` of every candidate."""
        found = search_sigma(around, self._init, self._prior_log_sd, val)
        self._take(found.value, found.at_edge)
        return {f"nll@{value:.4g}": nll for value, nll in sorted(found.nll.items())}

    def initial(self, weights: Mapping[str, Tensor]) -> Initial:
        """psi for these weights; the same on every call with equal weights."""
        device = next(iter(weights.values())).device
        generator = torch.Generator(device).manual_seed(self._seed)
        return initial_log_sd(weights, self._init, self._prior_log_sd, generator)

    def facts(self) -> dict[str, Fact]:
        """sigma_init; sigma_scale, its value, where it has one; sigma_search_at_edge, where it was searched."""
        facts: dict[str, Fact] = {"sigma_init": self._init.kind}
        value = getattr(self._init, "value", None)
        if value is not None:
            facts["sigma_scale"] = value
        if self._at_edge is not None:
            facts["sigma_search_at_edge"] = self._at_edge
        return facts

    def _take(self, value: float, at_edge: bool) -> None:
        self._init, self._at_edge = self._init.model_copy(update={"value": value}), at_edge

    def state_dict(self) -> dict[str, Any]:
        searched = isinstance(self._init, SEARCHABLE) and self._at_edge is not None
        return {"searched": [self._init.value, self._at_edge] if searched else None}  # type: ignore[union-attr]

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        if saved["searched"] is not None:
            self._take(*saved["searched"])

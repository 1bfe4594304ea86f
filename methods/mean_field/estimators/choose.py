"""The estimator of a name, and whether the device has room for it."""

from __future__ import annotations

import os
from typing import Literal

import torch

from benchmark import ConfigError
from methods.mean_field.estimators.estimator import Estimator
from methods.mean_field.estimators.exemplar import Exemplar
from methods.mean_field.estimators.flipout import Flipout
from methods.mean_field.estimators.local import Local
from methods.mean_field.estimators.ruled import Ruled
from methods.mean_field.estimators.shared import Shared
from methods.mean_field.state import MeanFieldState

Name = Literal["shared", "exemplar", "flipout", "local"]
RULES = {"exemplar": Exemplar, "flipout": Flipout, "local": Local}
ROOM = 0.6
"""Share of the device's memory that the samples of `exemplar` may take."""


def choose_estimator(name: Name, state: MeanFieldState, generator: torch.Generator, examples: int) -> Estimator:
    """Over the Gaussians of `state`. examples: of one forward pass. The generator is on the state's device.

    Raises:
        ConfigError: one weight sample per example does not fit into memory.
    """
    if name == "shared":
        return Shared(state.mu, state.psi, generator)
    if name == "exemplar":
        _check_room(examples * state.mu.flat.nbytes, examples, state.mu.flat.device)
    return Ruled(state.mu, state.psi, lambda gaussians: RULES[name](gaussians, generator))


def _check_room(needed: int, examples: int, device: torch.device) -> None:
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > ROOM * memory:
        fitting = int(examples * ROOM * memory / needed)
        raise ConfigError(
            f"estimator 'exemplar' keeps one weight sample per example: {needed / 2**30:.1f} GiB for {examples} "
            f"examples, of {memory / 2**30:.1f} GiB. "
            + (f"Set micro_batch to at most {fitting}, or use" if fitting else "Use")
            + " estimator: shared or flipout."
        )

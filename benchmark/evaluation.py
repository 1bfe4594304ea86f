"""What a run predicts: the arrays of `predictions.npz`, every set by the same draws of the decoded posterior.

`test` and `val` are the task's own data. Beside them stand the sets that are to be told from the test data by an
uncertainty score, `ood.<name>`: inputs that are not of the task, and test examples that were attacked.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.attacks.ascent import BATCH_SIZE as ATTACK_BATCH
from benchmark.attacks.ascent import attack_examples
from benchmark.attacks.config import Attack
from benchmark.attacks.gradient import Victim
from benchmark.contracts import Posterior, SplitName, Task, Weights
from benchmark.data import Split
from benchmark.errors import ConfigError, Diverged, PluginError
from benchmark.identity import Protocol, RunSpec
from benchmark.predict import effective_draws, has_score, kept_draws, own_scores, predict
from benchmark.problem import required_split, split_of, task_of
from benchmark.seeds import seed_from

Arrays = dict[str, NDArray[Any]]
ROUNDING = 1e-5
"""How far beyond black and white a normalised test pixel may lie, in units of white - black."""


@dataclass(frozen=True)
class Predictor:
    """A decoded posterior as the suite predicts with it. micro_batch: cap on examples per step of an attack."""

    spec: RunSpec
    network: nn.Module
    posterior: Posterior
    device: torch.device
    micro_batch: int | None = None

    @property
    def protocol(self) -> Protocol:
        """Draws and attacks."""
        return Protocol(**self.spec.protocol)

    @cached_property
    def draws(self) -> tuple[Weights, ...]:
        """The weight samples that every prediction averages, all in memory; made at first use."""
        return kept_draws(self.posterior, self.protocol.draws, draws_generator(self.spec))

    def arrays(self, name: str, split: Split) -> Arrays:
        """`<name>.log_probs` and, for more than one draw, `<name>.expected_entropy`.

        Raises:
            Diverged: a prediction is NaN.
        """
        made = predict(self.network, self.posterior, split, self.protocol.draws, draws_generator(self.spec))
        _refuse_nan(made.log_probs, name)
        arrays = {f"{name}.log_probs": made.log_probs.numpy()}
        if made.expected_entropy is not None:
            arrays[f"{name}.expected_entropy"] = made.expected_entropy.numpy()
        return arrays

    def scored(self, name: str, split: Split) -> Arrays:
        """`<name>.score`, when the posterior has a score of its own; otherwise nothing."""
        if not has_score(self.posterior):
            return {}
        scores = own_scores(self.network, self.posterior, self.draws, split)
        return {} if scores is None else {f"{name}.score": scores.numpy()}


def predicted_splits(predictor: Predictor) -> Arrays:
    """Predictions and labels of validation and test data, the exact law where it is known, and S."""
    spec, device = predictor.spec, predictor.device
    task, config = task_of(spec)
    test, val = required_split(spec, "test", device), split_of(spec, "val", device)
    splits: dict[SplitName, Split] = {"test": test} if val is None else {"val": val, "test": test}
    arrays: Arrays = {}
    for name, split in splits.items():
        arrays |= predictor.arrays(name, split)
        arrays[f"{name}.labels"] = split.labels.cpu().numpy()
    if type(task).true_log_probs is not Task.true_log_probs:
        truth = task.true_log_probs(config, test.inputs)
        if truth is not None:
            arrays["test.true_log_probs"] = truth.cpu().float().numpy()
    posterior, draws = predictor.posterior, predictor.protocol.draws
    arrays["meta.draws"] = np.array(effective_draws(posterior, draws))
    arrays["meta.deterministic"] = np.array(posterior.support == 1)
    return arrays


def predicted_for_detection(predictor: Predictor) -> tuple[Arrays, dict[str, Any]]:
    """What detection is measured on: the own scores of test data, predictions of OOD sets and of attacked examples.

    The second value tells by label which detection score an attack evaded (None for a plain one), the number of
    attacked examples and the seconds that the attack took.

    Raises:
        PluginError: the task's OOD sets or its input range break their contract.
        Diverged: a prediction is NaN.
    """
    spec, device = predictor.spec, predictor.device
    test, attacks = required_split(spec, "test", device), predictor.protocol.attacks
    arrays = predictor.scored("test", test)
    for name, unlabelled in _ood_sets(spec, {attack.label for attack in attacks}).items():
        split = unlabelled.to(device)
        arrays |= predictor.arrays(f"ood.{name}", split) | predictor.scored(f"ood.{name}", split)
    record = {}
    for attack in attacks:
        name = f"ood.{attack.label}"
        split, record[attack.label] = _attacked(predictor, attack, test)
        arrays |= predictor.arrays(name, split) | predictor.scored(name, split)
        arrays[f"{name}.labels"] = split.labels.cpu().numpy()
    return arrays, record


def predicted_under_shift(predictor: Predictor) -> Arrays:
    """`shift.<corruption>.<severity>.log_probs` for every corruption of the task at the protocol's severities, and once
    `shift.labels`. One corrupted set is in memory at a time.

    Raises:
        PluginError: the corrupted sets differ in their labels.
        Diverged: a prediction is NaN.
    """
    task, config = task_of(predictor.spec)
    arrays: Arrays = {}
    for severity in predictor.protocol.shift:
        for corruption in task.corruptions(config):
            split, name = task.corrupted(config, corruption, severity), f"shift.{corruption}.{severity}"
            labels = split.labels.numpy()
            if not np.array_equal(arrays.setdefault("shift.labels", labels), labels):
                raise PluginError(
                    f"task '{task.name}': the labels of '{corruption}' at severity {severity} are not those of the "
                    "other corrupted sets; all hold the same examples in the same order."
                )
            arrays[f"{name}.log_probs"] = predictor.arrays(name, split.to(predictor.device))[f"{name}.log_probs"]
    return arrays


def draws_generator(spec: RunSpec) -> torch.Generator:
    """The generator of a run's predictive draws, at its start."""
    return _generator(spec, "draws")


def _attacked(predictor: Predictor, attack: Attack, test: Split) -> tuple[Split, dict[str, Any]]:
    started = time.monotonic()
    found = attack_examples(
        attack,
        Victim(predictor.network, predictor.posterior, predictor.draws),
        test,
        _input_range(predictor.spec, test.first(attack.examples)),
        _generator(predictor.spec, "attack", attack.label),
        min(ATTACK_BATCH, predictor.micro_batch or ATTACK_BATCH),
    )
    split = Split(found.inputs, test.first(attack.examples).labels)
    return split, {"evaded": found.evaded, "examples": len(split), "seconds": time.monotonic() - started}


def _generator(spec: RunSpec, *purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(seed_from("suite", *spec.components, *purpose))


def _input_range(spec: RunSpec, attacked: Split) -> tuple[Tensor, Tensor]:
    task, config = task_of(spec)
    inputs = attacked.inputs
    bounds = task.input_range(config)
    if bounds is None:
        raise ConfigError(f"task '{task.name}' has no input_range, which attacks need.")
    black, white = (end.to(inputs) for end in bounds)
    channels = inputs.shape[1:2]
    if black.shape != channels or white.shape != channels or not bool((black < white).all()):
        raise PluginError(
            f"task '{task.name}': input_range must be black and white of shape {tuple(channels)} with black < white; "
            f"got {black.tolist()} and {white.tolist()}."
        )
    share = (inputs - black.view(-1, 1, 1)) / (white - black).view(-1, 1, 1)
    low, high = float(share.min()), float(share.max())
    if not -ROUNDING <= low <= high <= 1 + ROUNDING:
        raise PluginError(
            f"task '{task.name}': test inputs lie outside its input_range: they go from {low:.4g} to {high:.4g}, with "
            "black = 0 and white = 1. Is the range in the normalisation of the test set?"
        )
    return black, white


def _ood_sets(spec: RunSpec, taken: set[str]) -> Mapping[str, Split]:
    """The labels stand for nothing: no example is of any class."""
    task, config = task_of(spec)
    sets, shape = {}, task.info(config).input_shape
    for name, inputs in task.ood(config).items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name in taken:
            raise PluginError(
                f"task '{task.name}': an OOD set cannot be called {name!r}. Legal: letters, digits, '.', '_' and '-', "
                f"the first a letter or a digit, and not the label of an attack ({', '.join(sorted(taken)) or 'none'})."
            )
        try:
            sets[name] = Split(inputs, torch.zeros(len(inputs), dtype=torch.int64))
        except ValueError as error:
            raise PluginError(f"task '{task.name}': the OOD set '{name}' is none: {error}") from error
        if sets[name].shape[1:] != tuple(shape):
            raise PluginError(
                f"task '{task.name}': the OOD set '{name}' has the shape {sets[name].shape}, expected "
                f"(m, {', '.join(map(str, shape))})."
            )
    return sets


def _refuse_nan(log_probs: Tensor, name: str) -> None:
    bad = log_probs.isnan().any(dim=1).nonzero()
    if len(bad):
        raise Diverged(
            f"the predictions of {len(bad)} of {len(log_probs)} {name} examples are NaN, the first is row "
            f"{int(bad[0])}. The posterior holds non-finite weights; train with a smaller learning rate."
        )

"""The preset that weight sharing starts from: which epoch is kept, and stopping anywhere."""

from __future__ import annotations

import json

import torch
from mean_field_cases import context, problem

from benchmark.errors import Interrupted
from methods.mean_field import MeanField

QUICK = {"preset": "before_sharing", "epochs": 3, "batch_size": 20, "lr_mu": 1e-2}


def fit(folder, config, *, made=None, **options):
    made = made or problem()
    ctx = context(folder, made.network, **options)
    try:
        return MeanField().fit(made, ctx, MeanField.Config(**config))
    finally:
        ctx.close()


def epochs_in(folder) -> dict[int, float]:
    records = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return {record["epoch"]: record["val_nll"] for record in records if "epoch" in record}


def test_the_epoch_of_lowest_validation_nll_is_kept(tmp_path):
    posterior = fit(tmp_path, QUICK)
    seen = epochs_in(tmp_path)
    assert list(seen) == [0, 1, 2, 3]
    assert posterior.facts()["epoch_kept"] == min(seen, key=seen.get) > 0
    assert posterior.facts()["val_nll_kept"] == min(seen.values())


def test_a_training_that_only_hurts_ends_where_it_started(tmp_path):
    made = problem()
    start = {name: parameter.clone() for name, parameter in made.network.named_parameters()}
    posterior = fit(tmp_path, {**QUICK, "lr_mu": 5.0, "lr_psi": 5.0, "clamp": False}, made=made)
    assert posterior.facts()["epoch_kept"] == 0
    assert all(torch.equal(posterior.mean()[name], tensor) for name, tensor in start.items())
    head = start["head.weight"]
    sigma = posterior.log_sd["head.weight"].exp()
    assert torch.allclose(sigma, 0.02 * head.square().mean().sqrt().expand_as(sigma), rtol=1e-5)


def test_the_prior_is_the_tensor_and_the_divergence_is_weighted_by_the_data_per_weight(tmp_path):
    made = problem()
    facts = fit(tmp_path, QUICK, made=made).facts()
    weights = sum(parameter.numel() for parameter in made.network.parameters() if parameter.dim() > 1)
    assert facts["kl_temperature"] == min(1.0, made.n_train / (4 * weights))
    assert facts["tempered"] == (facts["kl_temperature"] < 1)


def test_stopping_after_any_step_changes_no_bit_of_the_kept_epoch(tmp_path):
    whole = fit(tmp_path / "whole", QUICK)
    history = (tmp_path / "whole" / "history.jsonl").read_bytes()
    parts = None
    while parts is None:
        try:
            parts = fit(tmp_path / "parts", QUICK, stop_requested=lambda: True)
        except Interrupted:
            continue
    assert all(torch.equal(parts.mean()[name], tensor) for name, tensor in whole.mean().items())
    assert all(torch.equal(parts.log_sd[name], tensor) for name, tensor in whole.log_sd.items())
    assert (tmp_path / "parts" / "history.jsonl").read_bytes() == history


def test_without_validation_data_the_last_epoch_is_kept_with_a_warning(tmp_path, caplog):
    assert fit(tmp_path, QUICK, made=problem(val=None)).facts()["epoch_kept"] == 3
    assert "no validation data" in caplog.text

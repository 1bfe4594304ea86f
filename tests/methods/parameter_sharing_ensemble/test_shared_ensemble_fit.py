"""Whole fits: what the posterior is, what the network keeps, what the suite is told, and stopping anywhere."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch
from ensemble_cases import LAYERS, context, factors, network, problem
from pydantic import ValidationError
from small_problems import digits_nlls
from torch import nn

from benchmark import ConfigError, Context, Split, copy_of, weights_of
from benchmark.errors import Interrupted
from benchmark.predict import predict
from methods.finetuning import loop
from methods.map_finetuned import MapFinetuned
from methods.parameter_sharing_ensemble import ParameterSharingEnsemble
from methods.parameter_sharing_ensemble.factors import Factors
from methods.parameter_sharing_ensemble.search import GRID, search_spread

QUICK = {"epochs": 2, "batch_size": 20, "components": 3}
FIXED = {**QUICK, "spread_search": False, "spread": 0.2}


def fit(folder, config=None, *, method=None, facts=None, made=None, **options):
    """A fit on the small problem: (posterior, problem)."""
    method = method or ParameterSharingEnsemble()
    made = made or problem()
    ctx = context(folder, made.network, facts, **options)
    try:
        return method.fit(made, ctx, method.Config(**(QUICK if config is None else config))), made
    finally:
        ctx.close()


def drawn(posterior) -> list[dict[str, torch.Tensor]]:
    return [copy_of(weights) for weights in posterior.draws(posterior.support, torch.Generator())]


def same(a, b) -> bool:
    return all(torch.equal(x[name], y[name]) for x, y in zip(a, b, strict=True) for name in x)


@pytest.mark.parametrize("assignment", ["per_batch", "per_example"])
def test_a_fit_moves_everything_but_the_network_it_started_from(tmp_path, assignment):
    made = problem()
    made.network.train()
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    posterior, _ = fit(tmp_path, {**QUICK, "assignment": assignment}, made=made)
    untrained, _ = fit(tmp_path / "untrained", {"preset": "posthoc", "components": 3})
    assert all(torch.equal(before[name], tensor) for name, tensor in made.network.state_dict().items())
    assert all(module.training for module in made.network.modules())
    assert all(parameter.grad is None for parameter in made.network.parameters())
    for name, tensor in posterior.mean().items():
        assert not torch.equal(tensor, before[name]), name
        assert not tensor.requires_grad
    pairs = zip(posterior._factors.tensors(), untrained._factors.tensors(), strict=True)
    assert not any(torch.equal(trained, start) for trained, start in pairs)


def test_facts_are_finite_and_say_what_happened(tmp_path):
    posterior, _ = fit(tmp_path)
    facts = posterior.facts()
    assert all(math.isfinite(value) for value in facts.values() if not isinstance(value, str))
    sizes = {"stem": (4, 9), "grouped": (6, 12), "mix": (5, 6), "head": (3, 5)}
    expected = {
        "assignment": "per_batch",
        "components": 3,
        "rank": 1,
        "optimiser": "sgd",
        "lr": pytest.approx(1e-2 * 20 / 128),
        "lr_factors": 1e-3,
        "l2": 5e-4,
        "l2_assumed": False,
        "bayesian_weights": sum(rows * columns for rows, columns in sizes.values()),
        "trained_weights": 4 + 4 + 6 + 3,
        "frozen_weights": 0,
        "extra_weights": 3 * sum(rows + columns for rows, columns in sizes.values()),
        "bn": "train",
        "precision": "fp32",
        "skipped_steps": 0,
        "fallback_ops": "",
    }
    assert {key: facts[key] for key in expected} == expected
    assert facts["spread"] in GRID
    assert facts["spread_search_at_edge"] == (facts["spread"] in (GRID[0], GRID[-1]))
    squares = [sum(float(w[name].double().square().sum()) for name in LAYERS) for w in drawn(posterior)]
    assert facts["l2_term"] == pytest.approx(5e-4 / 2 * sum(squares) / 3, rel=1e-5)
    assert facts["spread_end"] == pytest.approx(facts["spread"], rel=0.6)  # three components only


def test_the_history_holds_selection_search_and_every_epoch(tmp_path):
    fit(tmp_path)
    records = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [record.get("event", record.get("epoch")) for record in records] == ["selection", "spread_search", 1, 2]
    assert records[0]["bayesian"] == " ".join(LAYERS)
    assert [key for key in records[1] if key.startswith("nll@")] == [f"nll@{spread:.4g}" for spread in GRID]
    assert {"train_loss", "l2_term", "spread", "skipped_steps"} <= set(records[2])


def test_without_training_the_spread_alone_is_chosen(tmp_path):
    posterior, made = fit(tmp_path, {"preset": "posthoc", "components": 5})
    own, facts = weights_of(made.network), posterior.facts()
    every = drawn(posterior)
    assert len(every) == 5
    assert all(torch.equal(weights[name], own[name]) for weights in every for name in own if name not in LAYERS)
    expected = factors({name: own[name] for name in LAYERS}, 5, rank=1, spread=facts["spread"])
    assert expected.components == posterior.support
    assert facts["spread_end"] == pytest.approx(facts["spread"], rel=0.5)
    nll = {}
    records = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    for spread in GRID:
        nll[spread] = records[1][f"nll@{spread:.4g}"]
    assert facts["spread"] == min(nll, key=nll.get)
    log_probs = predict(made.network, posterior, made.val, 5, torch.Generator()).log_probs
    scored = -float(log_probs[torch.arange(30), made.val.labels].double().mean())
    assert scored == pytest.approx(nll[facts["spread"]], abs=1e-5)  # the ensemble is the one that was scored


def test_the_search_widens_an_overconfident_network_and_flags_the_edge():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 1, 1, 20, generator=generator)
    clean = (inputs[:, 0, 0, 0] > 0).long()
    labels = torch.where(torch.rand(400, generator=generator) < 0.3, 1 - clean, clean)
    net = nn.Sequential(nn.Flatten(), nn.Linear(20, 2, bias=False)).eval()
    with torch.no_grad():
        net[1].weight.copy_(0.3 * torch.randn(2, 20, generator=generator))
        net[1].weight[1, 0] = 6.0
    weights = {"1.weight": net[1].weight.detach()}
    deviates = Factors.deviates(weights, 20, 1, seed=0)
    sure = search_spread(net, weights, deviates, {}, Split(inputs, labels), 64)
    assert set(sure.nll) == set(GRID)
    assert sure.nll[sure.value] == min(sure.nll.values())
    assert sure.value > 0.3
    right = search_spread(net, weights, deviates, {}, Split(inputs, net(inputs).argmax(1)), 64)
    assert right.value == GRID[0]
    assert right.at_edge


def test_without_spread_the_shared_weights_follow_the_companion(tmp_path):
    """Fast weights that hardly differ from 1 leave the trajectory of plain fine-tuning."""
    silent = {**FIXED, "spread": 1e-6, "lr_factors": 1e-12}
    ensemble, _ = fit(tmp_path / "a", silent)
    point, _ = fit(tmp_path / "b", {"epochs": 2, "batch_size": 20}, method=MapFinetuned())
    for name, tensor in point.mean().items():
        assert torch.allclose(ensemble.mean()[name], tensor, atol=2e-6), name


@pytest.mark.parametrize("assignment", ["per_batch", "per_example"])
@pytest.mark.parametrize("bn", ["train", "reestimate"])
def test_stopping_after_any_step_changes_no_bit(tmp_path, assignment, bn, monkeypatch):
    monkeypatch.setattr(loop, "resolve", lambda asked, device: asked)  # as on a GPU
    config = {**QUICK, "bn": bn, "assignment": assignment, "rank": 2, "precision": "fp16" if bn == "train" else "fp32"}
    whole, _ = fit(tmp_path / "whole", config)
    history = (tmp_path / "whole" / "history.jsonl").read_bytes()
    posterior, stops = None, 0
    while posterior is None:
        try:
            posterior, _ = fit(tmp_path / "parts", config, stop_requested=lambda: True)
        except Interrupted:
            stops += 1
    assert stops == 6  # two epochs of three steps, stopped after each
    assert same(drawn(posterior), drawn(whole))
    assert posterior.facts() == whole.facts()
    assert (tmp_path / "parts" / "history.jsonl").read_bytes() == history


def test_a_search_is_not_repeated_when_a_run_goes_on(tmp_path, monkeypatch):
    with pytest.raises(Interrupted):
        fit(tmp_path, stop_requested=lambda: True)
    from methods.parameter_sharing_ensemble import fit as module

    monkeypatch.setattr(module, "search_spread", None)
    posterior, _ = fit(tmp_path)
    assert posterior.facts()["spread"] in GRID


def test_equal_seeds_give_equal_bits(tmp_path):
    a, b = (drawn(fit(tmp_path / part, FIXED)[0]) for part in "ab")
    assert same(a, b)


def test_micro_batches_give_the_same_fit_up_to_rounding(tmp_path):
    for assignment in ("per_batch", "per_example"):
        config = {**FIXED, "bn": "frozen", "assignment": assignment}
        whole, _ = fit(tmp_path / assignment / "whole", config)
        parts, _ = fit(tmp_path / assignment / "parts", config, micro_batch=7)
        for a, b in zip(drawn(whole), drawn(parts), strict=True):
            assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)


def test_a_run_of_the_paper_s_preset_averages_over_components_within_a_batch(tmp_path):
    config = {"preset": "paper", "epochs": 1, "batch_size": 40, "micro_batch": 20, "components": 3}
    facts = fit(tmp_path, config)[0].facts()
    expected = {"assignment": "per_example", "precision": "fp32", "spread": 0.2, "lr": 1e-4, "optimiser": "sgd"}
    assert {key: facts[key] for key in expected} == expected
    assert "spread_search_at_edge" not in facts


def test_a_strong_prior_pulls_components_to_zero_and_other_weights_by_the_base_run_s_rule(tmp_path):
    strong = {**FIXED, "l2": 20.0, "epochs": 4}
    weak, _ = fit(tmp_path / "a", FIXED)
    pulled, made = fit(tmp_path / "b", strong)
    base = weights_of(made.network)
    for name in LAYERS:
        assert pulled.mean()[name].norm() < 0.95 * weak.mean()[name].norm()
    assert torch.allclose(pulled.mean()["norm.weight"], base["norm.weight"], atol=0.01)  # norms have no L2 term


def test_a_clipped_gradient_moves_the_shared_weights_less(tmp_path):
    base = weights_of(network())
    moves = []
    for clip_norm in (None, 1e-6):
        posterior, _ = fit(tmp_path / str(clip_norm), {**FIXED, "l2": 1e-9, "clip_norm": clip_norm})
        moves.append(float((posterior.mean()["head.bias"] - base["head.bias"]).norm()))
    assert moves[1] < 1e-3 * moves[0]


@pytest.mark.parametrize(
    ("chosen", "layers"),
    [
        ("weights", LAYERS),
        ("all", LAYERS),
        ("paper", LAYERS),
        ("head", ("head.weight",)),
        ({"include": ["mix.*", "norm.*"]}, ("mix.weight",)),
    ],
)
def test_only_weights_of_linear_and_convolution_layers_differ(tmp_path, chosen, layers):
    posterior, made = fit(tmp_path, {**FIXED, "select": chosen})
    first, second, _ = drawn(posterior)
    assert {name for name in first if not torch.equal(first[name], second[name])} == set(layers)
    own = weights_of(made.network)
    assert not any(torch.equal(first[name], own[name]) for name in own)  # all is trained


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        ({"spread": 0.2}, ("spread_search", "spread")),
        ({"spread_search": False}, ("spread_search", "spread")),
        ({"epochs": 0, "spread_search": False, "spread": 0.2}, ("epochs", "spread_search")),
        ({"components": 0}, ("components",)),
        ({"rank": 0}, ("rank",)),
        ({"spread": 0, "spread_search": False}, ("spread",)),
        ({"assignment": "per_token"}, ("assignment",)),
        ({"l2": 0}, ("l2",)),
        ({"preset": "posthok"}, ("posthoc",)),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_by_name(config, fields):
    with pytest.raises(ValidationError) as error:
        ParameterSharingEnsemble.Config(**config)
    assert all(field in str(error.value) for field in fields)


def test_presets_are_the_published_settings():
    paper, imagenet = (ParameterSharingEnsemble.Config(preset=name) for name in ("paper", "paper_imagenet"))
    assert (paper.epochs, paper.spread, paper.nesterov, paper.components, paper.rank) == (12, 0.2, True, 20, 1)
    assert (imagenet.epochs, imagenet.spread, imagenet.nesterov) == (4, 0.1, False)
    for config in (paper, imagenet):
        assert (config.batch_size, config.micro_batch, config.precision) == (256, 32, "fp16")
        assert (config.lr_mu, config.schedule_mu, config.lr_factors) == (1e-4, "constant", 1e-3)


def test_networks_without_a_layer_to_multiply_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="linear or convolution"):
        fit(tmp_path, {**FIXED, "select": {"include": ["norm.*"]}})


def test_a_search_without_validation_data_says_how_to_get_some(tmp_path):
    with pytest.raises(ConfigError, match=r"spread_search.*no validation split.*spread_search: false and give spread"):
        fit(tmp_path, made=problem(val=None))


def test_a_fit_without_base_run_is_refused(tmp_path):
    made = problem()
    ctx = Context(tmp_path, ("made_up", "small", "parameter_sharing_ensemble", 0))
    with pytest.raises(ConfigError, match="base run"):
        ParameterSharingEnsemble().fit(made, ctx, ParameterSharingEnsemble.Config())


def test_the_method_starts_from_map_and_names_its_posterior():
    method = ParameterSharingEnsemble()
    assert [need.method for need in method.needs(method.Config())] == ["map"]
    assert method.posterior_type().__name__ == "SharedEnsemble"


def test_declaring_the_method_imports_no_torch():
    code = (
        "import sys, methods.parameter_sharing_ensemble as m; m.ParameterSharingEnsemble.Config(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_digits_keep_their_likelihood_through_fit_and_bytes(tmp_path):
    method = ParameterSharingEnsemble()
    base, fitted, decoded = digits_nlls(tmp_path, method, method.Config(epochs=2, components=8), base_epochs=5)
    assert decoded == fitted
    assert decoded <= base + 0.005

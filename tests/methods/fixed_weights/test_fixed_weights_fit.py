"""Whole fits of every method that fixes weights: what is fixed when, what the row is told, stopping, and failures."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from fixing_fits import PWFN, WFN, Fits, decoded, plain, varied
from pydantic import ValidationError
from small_problems import bytes_of, history, problem_of, told
from small_problems import small_with_token as network
from torch import nn

from benchmark import ConfigError, CorruptBitstream, Diverged, weights_of
from benchmark.errors import Interrupted
from benchmark.figures import read_figures

BOTH = [PWFN, WFN]
COMMON = {
    "bn",
    "skipped_steps",
    "weights",
    "rest",
    "buffers",
    "unique",
    "unique_nonzero",
    "zero_fraction",
    "entropy_bits",
    "entropy_bits_nonzero",
    "entropy_nats",
    "bits_fixed",
    "bits_ideal",
    "bits_huffman",
    "picks",
    "phases",
    "val_acc_base",
    "val_nll_base",
    "val_acc_mean",
    "val_nll_mean",
    "seconds_train",
    "seconds_cluster",
}
OWN = {
    "pwfn": {"lr", "max_delta", "late_fraction", "negative_sigma", "val_acc_draws", "val_nll_draws", "predict"},
    "wfn": {"max_order", "max_reach"},
}


@pytest.fixture(params=BOTH, ids=lambda fits: fits.method.name)
def fits(request) -> Fits:
    return request.param


@pytest.fixture(autouse=True)
def quick_figure(monkeypatch, request):
    """A picture in no time: drawing the real one takes longer than these fits."""
    if "real_figure" not in request.fixturenames:
        svg = '<svg xmlns="http://www.w3.org/2000/svg"/>'
        monkeypatch.setattr("methods.fixed_weights.fit.fixing_figure", lambda rounds, book, b: svg)


@pytest.fixture
def real_figure():
    """The picture as it is."""


# ---- what a fit does -----------------------------------------------------------------------------------------------


def test_a_fit_leaves_the_network_alone_and_every_weight_in_scope_is_on_the_grid(fits, tmp_path):
    made = problem_of(network(), network)
    made.network.train()
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    posterior, _ = fits.fit(tmp_path, made)
    assert all(torch.equal(before[name], tensor) for name, tensor in made.network.state_dict().items())
    assert all(module.training for module in made.network.modules())
    assert all(parameter.grad is None for parameter in made.network.parameters())
    mean = posterior.mean()
    assert mean.keys() == weights_of(made.network).keys()
    scope = fits.scope(made.network)
    for name in scope:
        scaled = mean[name] * 2 ** fits.bits(fits.config())
        assert torch.equal(scaled, scaled.round()), name
    for name in {"token", "norm.weight", "norm.running_mean"} - set(scope):
        assert not torch.equal(mean[name], before[name]), name


@pytest.mark.parametrize("preset", ["recommended", "paper"])
def test_after_every_round_just_the_share_asked_for_is_fixed(fits, tmp_path, preset):
    shares = [0.2, 0.55, 0.8, 1.0]
    posterior, _ = fits.fit(tmp_path, config={"preset": preset, "fractions": shares, "rest_epochs": 1})
    rounds, n = history(tmp_path, "round"), posterior.facts()["weights"]
    rounded = math.ceil if fits is PWFN else math.floor
    fixed = [rounded(round(share * n, 6)) for share in shares]
    assert [one["fixed"] for one in rounds] == fixed
    added = [after - before for before, after in zip([0, *fixed], fixed, strict=False)]
    assert [one["left"] for one in rounds] == (fixed if preset == "paper" else added)
    for one in rounds:
        assert sum(int(pick.split(":")[1]) for pick in one["picks"].split()) == one["left"]
    assert posterior.facts()["picks"] == sum(len(one["picks"].split()) for one in rounds)


def test_an_early_end_leaves_weights_free_and_the_file_keeps_them(fits, tmp_path):
    posterior, made = fits.fit(tmp_path, config={"fractions": [0.5, 0.9]})
    stored, n = posterior._stored, posterior.facts()["weights"]
    assert int((stored.book.labels == len(stored.book)).sum()) == n - history(tmp_path, "round")[-1]["fixed"] > 0
    again = decoded(bytes_of(posterior), made.network)
    assert bytes_of(again) == bytes_of(posterior)
    assert all(torch.equal(again.mean()[name], tensor) for name, tensor in posterior.mean().items())


def test_the_row_is_told_everything_and_nothing_else(fits, tmp_path):
    posterior, made = fits.fit(tmp_path)
    facts = posterior.facts()
    assert facts.keys() == COMMON | OWN[fits.method.name]
    flat = torch.cat([posterior.mean()[name].flatten() for name in fits.scope(made.network)])
    assert facts["weights"] == len(flat)
    assert facts["rest"] == sum(p.numel() for p in made.network.parameters()) - len(flat)
    assert facts["buffers"] == 16
    assert facts["unique"] == len(flat.unique())
    assert facts["zero_fraction"] == pytest.approx(float((flat == 0).double().mean()))


def test_only_weights_with_noise_have_columns_of_sigma(fits, tmp_path):
    fits.fit(tmp_path)
    for one in history(tmp_path, "round") + history(tmp_path, "layer"):
        assert any("sigma" in key for key in one) == (fits is PWFN)


def test_the_records_of_the_tensors_add_up_to_the_network(fits, tmp_path):
    posterior, made = fits.fit(tmp_path)
    layers, facts = history(tmp_path, "layer"), posterior.facts()
    assert [layer["name"] for layer in layers] == list(fits.scope(made.network))
    n, bits = facts["weights"], facts["entropy_bits"]
    assert sum(layer["n"] for layer in layers) == n
    assert sum(layer["n"] * layer["entropy_bits"] for layer in layers) <= n * bits
    assert sum(layer["n"] * layer["cross_bits"] for layer in layers) == pytest.approx(n * bits, rel=1e-9)
    for layer in layers:
        assert sum(map(int, layer["fixed_by_round"].split())) == layer["n"]
        assert sum(int(entry.split(":")[1]) for entry in layer["fixed_by_omega"].split()) == layer["n"]
        change = (posterior.mean()[layer["name"]] - weights_of(made.network)[layer["name"]]).square().mean().sqrt()
        assert layer["rms_change"] == pytest.approx(float(change), rel=1e-5)


@pytest.mark.usefixtures("real_figure")
def test_the_figure_of_a_fit_is_kept_with_its_caption(fits, tmp_path):
    fits.fit(tmp_path)
    (figure,) = read_figures(tmp_path / "figures")
    assert figure.name == "fixing"
    assert "how many weights have each value" in figure.caption


def test_running_statistics_are_those_of_the_final_weights(fits, tmp_path):
    posterior, made = fits.fit(tmp_path, config={"batch_size": 60})
    with torch.no_grad():
        weight, bias = posterior.mean()["conv.weight"], posterior.mean()["conv.bias"]
        out = torch.nn.functional.conv2d(made.train.inputs, weight, bias)
    expected = out.mean((0, 2, 3)), out.var((0, 2, 3))
    assert torch.allclose(posterior.mean()["norm.running_mean"], expected[0], atol=1e-5)
    assert torch.allclose(posterior.mean()["norm.running_var"], expected[1], rtol=1e-4)
    left, _ = fits.fit(tmp_path / "left", config={"batch_size": 60, "bn_reestimate_batches": 0})
    assert not torch.allclose(left.mean()["norm.running_mean"], expected[0], atol=1e-3)


def test_batches_that_are_too_small_keep_the_statistics_of_the_base_network(fits, tmp_path):
    posterior, made = fits.fit(tmp_path, config={"batch_size": 10, "rest_epochs": 1})
    assert posterior.facts()["bn"] == "frozen"
    assert torch.equal(posterior.mean()["norm.running_var"], made.network.norm.running_var)


FINE = {"pwfn": {"b": 15, "sigma_init": "constant", "lr": 0.5}, "wfn": {"delta": 0.003, "lr": 0.1}}


def test_a_frozen_layer_is_fixed_to_values_near_its_own_weights(fits, tmp_path):
    made = problem_of(network(), network)
    made.network.conv.weight.requires_grad_(False)
    made.network.token.requires_grad_(False)
    posterior, _ = fits.fit(tmp_path, made, FINE[fits.method.name])
    own = weights_of(made.network)
    assert (posterior.mean()["conv.weight"] - own["conv.weight"]).abs().max() < 0.02
    assert (posterior.mean()["head.weight"] - own["head.weight"]).abs().max() > 0.1
    assert torch.equal(posterior.mean()["token"], own["token"])


@pytest.mark.parametrize(("norm", "used"), [(True, False), (False, True)], ids=["statistics", "no statistics"])
def test_the_launcher_s_micro_batch_is_used_where_it_changes_no_number(fits, tmp_path, caplog, norm, used):
    build = network if norm else plain
    caplog.set_level(logging.WARNING, logger="bnnbench")
    whole, _ = fits.fit(tmp_path / "whole", problem_of(build(), build))
    parts, _ = fits.fit(tmp_path / "parts", problem_of(build(), build), micro_batch=7)
    assert ("micro-batch would change" in caplog.text) == (not used)
    if not used:
        assert bytes_of(whole) == bytes_of(parts)


def test_a_fit_needs_no_validation_data_and_predicts_with_the_mean(fits, tmp_path):
    posterior, _ = fits.fit(tmp_path, problem_of(network(), network, val=None))
    assert not [name for name in posterior.facts() if name.startswith("val_")]
    assert posterior.support == 1


# ---- stopping and repeating ----------------------------------------------------------------------------------------

WAYS = [
    (PWFN, "recommended", {}),
    (PWFN, "paper", {"preset": "paper"}),
    (PWFN, "decaying", {"preset": "paper", "decay_fixed": True, "rest_epochs": 1}),
    (PWFN, "alternate", {"alternate": True, "rest_epochs": 1}),
    (PWFN, "untrained", {"start_epochs": 0, "rest_epochs": 0}),
    (PWFN, "wide codes", {"b": 15, "rest_epochs": 1, "fractions": [0.6, 1.0]}),
    (WFN, "recommended", {}),
    (WFN, "paper", {"preset": "paper", "rest_epochs": 1}),
    (WFN, "untrained", {"rest_epochs": 0}),
    (WFN, "wide codes", {"delta": 0.003, "rest_epochs": 1, "fractions": [0.6, 1.0]}),
]


@pytest.mark.parametrize(
    ("fits", "config"), [(fits, config) for fits, _, config in WAYS], ids=[f"{w[0].method.name}-{w[1]}" for w in WAYS]
)
def test_stopping_after_any_step_changes_no_byte_no_fact_and_no_record(fits, config, tmp_path):
    whole, made = fits.fit(tmp_path / "whole", config=config)
    parts, stops = None, 0
    while parts is None:
        try:
            parts, _ = fits.fit(tmp_path / "parts", config=config, stop_requested=lambda: True)
        except Interrupted:
            stops += 1
    assert stops == sum(max(steps, 1) for steps in fits.lengths(fits.config(config), made))
    assert bytes_of(parts) == bytes_of(whole)
    assert told(parts) == told(whole)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")


def test_the_same_seed_gives_the_same_file_and_another_base_does_not(fits, tmp_path):
    one, again = (bytes_of(fits.fit(tmp_path / name)[0]) for name in ("one", "again"))
    assert one == again
    assert bytes_of(fits.fit(tmp_path / "other", problem_of(network(1), network))[0]) != one


# ---- unusual networks ----------------------------------------------------------------------------------------------


def test_zeros_single_elements_groups_dilation_attention_and_ties_are_fixed(fits, tmp_path):
    made = problem_of(varied(), varied)
    posterior, _ = fits.fit(tmp_path, made)
    for name in fits.scope(made.network):
        scaled = posterior.mean()[name] * 2 ** fits.bits(fits.config())
        assert torch.equal(scaled, scaled.round()), name
    assert all(bool(tensor.isfinite().all()) for tensor in posterior.mean().values())
    assert bytes_of(decoded(bytes_of(posterior), varied(1))) == bytes_of(posterior)


def test_a_network_of_zeros_has_one_value(fits, tmp_path):
    def build(seed: int = 0) -> nn.Module:
        net = plain(seed)
        for parameter in net.parameters():
            nn.init.zeros_(parameter)
        return net

    untrained = {"rest_epochs": 0, "fractions": [1.0], **({"start_epochs": 0} if fits is PWFN else {})}
    posterior, _ = fits.fit(tmp_path, problem_of(build(), build), untrained)
    assert (posterior.facts()["unique"], posterior.facts()["entropy_bits"]) == (1, 0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_network_in_half_precision_is_fitted_in_single(fits, tmp_path, dtype):
    posterior, _ = fits.fit(tmp_path, problem_of(network().to(dtype), network))
    assert {tensor.dtype for tensor in posterior.mean().values()} == {torch.float32}
    assert posterior.facts()["val_nll_base"] < 2


# ---- failures ------------------------------------------------------------------------------------------------------


def test_a_nan_weight_fails_before_any_training(fits, tmp_path):
    made = problem_of(network(), network)
    with torch.no_grad():
        made.network.conv.weight[0] = torch.nan
    with pytest.raises(Diverged, match=r"'conv\.weight' is nan"):
        fits.fit(tmp_path, made)
    assert not (tmp_path / "history.jsonl").exists()


TOO_LARGE = [
    (
        PWFN,
        {"b": 15},
        1000.0,
        r"32,768,000 steps .* at most 16,777,216 \(2\^24\)\. Set b to at most 14\.",
    ),
    (PWFN, {"b": 7}, 1e30, "Rescale the network: no b in 1..15"),
    (WFN, {"delta": 0.02}, 2000.0, r"2\^-13; legal: at most 8,388,608 \(2\^23\)\. Set delta to at least 0\.023\."),
    (WFN, {"delta": 0.02}, 1e6, r"Rescale the network: no delta up to 0\.5"),
]


@pytest.mark.parametrize(("fits", "config", "size", "message"), TOO_LARGE)
def test_a_weight_too_large_for_the_grid_fails_before_any_training_by_name(fits, config, size, message, tmp_path):
    made = problem_of(network(), network)
    with torch.no_grad():
        made.network.head.bias[1] = -size
    with pytest.raises(ConfigError, match=rf"mu of 'head\.bias', element 1, is .*{message}"):
        fits.fit(tmp_path, made, config)
    assert not (tmp_path / "history.jsonl").exists()


@pytest.mark.parametrize(("fits", "config", "size"), [(PWFN, {"b": 14}, 1000.0), (WFN, {"delta": 0.023}, 2000.0)])
def test_the_remedy_for_a_weight_too_large_helps(fits, config, size, tmp_path):
    made = problem_of(network(), network)
    with torch.no_grad():
        made.network.head.bias[1] = -size
    posterior, _ = fits.fit(tmp_path, made, {**config, "fractions": [0.5], "rest_epochs": 0})
    assert bytes_of(decoded(bytes_of(posterior), made.network)) == bytes_of(posterior)


def test_a_network_without_layers_fails_before_any_training(fits, tmp_path):
    def build(seed: int = 0) -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    with pytest.raises(ConfigError, match="no weight of a convolutional"):
        fits.fit(tmp_path, problem_of(build(), build))


def test_bytes_that_were_cut_are_refused(fits, tmp_path):
    posterior, made = fits.fit(tmp_path)
    with pytest.raises(CorruptBitstream):
        decoded(bytes_of(posterior)[:-3], made.network)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fractions": [0.5, 0.5]}, r"\[0\.5, 0\.5\] are no rising shares in \(0, 1\]"),
        ({"fractions": [0.0, 1.0]}, "no rising shares"),
        ({"fractions": [0.5, 1.1]}, "no rising shares"),
        ({"fractions": []}, "fractions\n.*at least 1 item"),
        ({"preset": "papers"}, "Did you mean 'paper'"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused_with_what_would(fits, given, message):
    with pytest.raises(ValidationError, match=message):
        fits.method.Config(**given)


def test_the_settings_that_a_worker_reads_back_are_the_same(fits):
    method = fits.method
    for given in ({}, {"preset": "paper"}, {"preset": "smoke"}):
        config = method.Config(**given)
        assert method.Config(**config.identity()).identity() == config.identity()
    assert [need.method for need in method.needs(method.Config())] == ["map"]

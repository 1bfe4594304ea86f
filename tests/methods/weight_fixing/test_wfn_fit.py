"""Whole fits: what is fixed when, what the row is told, stopping anywhere, unusual networks, bytes, and failures."""

from __future__ import annotations

import logging

import pytest
import torch
from pydantic import ValidationError
from small_problems import bytes_of, digits_nlls, history, problem_of, told, with_statistics
from small_problems import small_with_token as network
from torch import Tensor, nn
from wfn_cases import METHOD, QUICK, decoded, fit

from benchmark import ConfigError, CorruptBitstream, Diverged, weights_of
from benchmark.errors import Interrupted
from methods.finetuning.select import norm_parameters
from methods.weight_fixing.candidates import grid_bits
from methods.weight_fixing.schedule import Schedule
from methods.weight_fixing.scope import wfn_scope

FACTS = {
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
    "max_order",
    "max_reach",
    "val_acc_base",
    "val_nll_base",
    "val_acc_mean",
    "val_nll_mean",
    "seconds_train",
    "seconds_cluster",
}


@pytest.fixture(autouse=True)
def quick_figure(monkeypatch):
    """A picture in no time: drawing the real one takes longer than these fits."""
    svg = '<svg xmlns="http://www.w3.org/2000/svg"/>'
    monkeypatch.setattr("methods.weight_fixing.fit.fixing_figure", lambda rounds, book, b: svg)


# ---- what a fit does -----------------------------------------------------------------------------------------------


def test_a_fit_leaves_the_network_alone_and_every_weight_in_scope_is_a_sum_of_powers(tmp_path):
    made = problem_of(network(), network)
    made.network.train()
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    posterior, _ = fit(tmp_path, made)
    assert all(torch.equal(before[name], tensor) for name, tensor in made.network.state_dict().items())
    assert all(module.training for module in made.network.modules())
    assert all(parameter.grad is None for parameter in made.network.parameters())
    mean = posterior.mean()
    assert mean.keys() == weights_of(made.network).keys()
    for name in wfn_scope(made.network, True).bayesian:
        scaled = mean[name] * 2 ** grid_bits(QUICK["delta"])
        assert torch.equal(scaled, scaled.round()), name
    assert not torch.equal(mean["token"], before["token"])


@pytest.mark.parametrize("include_norm", [True, False])
def test_norms_are_fixed_where_they_are_included_and_trained_where_not(tmp_path, include_norm):
    posterior, made = fit(tmp_path, config={"include_norm": include_norm})
    scaled = posterior.mean()["norm.bias"] * 2 ** grid_bits(QUICK["delta"])
    assert torch.equal(scaled, scaled.round()) == include_norm
    if not include_norm:
        assert not torch.equal(posterior.mean()["norm.bias"], weights_of(made.network)["norm.bias"])
    assert posterior.facts()["weights"] == 107 + 16 * include_norm
    assert posterior.facts()["rest"] == 8 + 16 * (not include_norm)


def test_norms_of_all_kinds_are_in_scope():
    net = nn.Sequential(
        nn.Linear(4, 4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.RMSNorm(4), nn.BatchNorm1d(4), nn.InstanceNorm1d(4)
    )
    names = ("1.weight", "1.bias", "2.weight", "2.bias", "3.weight", "4.weight", "4.bias")
    assert norm_parameters(net) == names
    assert wfn_scope(net, True).bayesian == ("0.weight", "0.bias", *names)


@pytest.mark.parametrize("config", [{}, {"preset": "paper"}], ids=["recommended", "paper"])
def test_after_every_iteration_just_the_share_asked_for_is_fixed(tmp_path, config):
    posterior, _ = fit(tmp_path, config={**config, "fractions": [0.2, 0.55, 0.8, 1.0], "rest_epochs": 1})
    iterations = history(tmp_path, "round")
    assert [one["fixed"] for one in iterations] == [24, 67, 98, 123]
    left = [24, 67, 98, 123] if config else [24, 43, 31, 25]
    assert [one["left"] for one in iterations] == left
    assert posterior.facts()["unique"] == len(posterior._stored.book)


def test_weights_that_stay_free_are_kept_as_they_are(tmp_path):
    posterior, made = fit(tmp_path, config={"fractions": [0.5, 0.8]})
    assert int((posterior._stored.book.labels == len(posterior._stored.book)).sum()) == 123 - 98
    again = decoded(bytes_of(posterior), made.network)
    assert all(torch.equal(again.mean()[name], tensor) for name, tensor in posterior.mean().items())


def test_a_row_is_told_what_became_of_its_weights(tmp_path):
    posterior, made = fit(tmp_path)
    assert posterior.facts().keys() == FACTS
    iterations, layers = history(tmp_path, "round"), history(tmp_path, "layer")
    picks = [pick.split(":") for one in iterations for pick in one["picks"].split()]
    assert len(picks) == posterior.facts()["picks"]
    assert sum(int(count) for _, count, _, _ in picks) == posterior.facts()["weights"]
    assert [layer["name"] for layer in layers] == list(wfn_scope(made.network, True).bayesian)
    assert not [key for one in iterations + layers for key in one if "sigma" in key]


def test_a_point_predicts_in_one_pass_and_comes_back_from_its_bytes(tmp_path):
    posterior, made = fit(tmp_path)
    assert posterior.support == 1
    again = decoded(bytes_of(posterior), network(1))
    assert all(torch.equal(again.mean()[name], tensor) for name, tensor in posterior.mean().items())
    with pytest.raises(CorruptBitstream):
        decoded(bytes_of(posterior)[:-3], made.network)


def test_distances_shrink_in_equal_steps_to_delta():
    assert METHOD.Config(delta=0.01).distances() == pytest.approx([0.01 * times for times in range(10, 0, -1)])
    assert METHOD.Config(delta=0.02, fractions=[0.5, 1.0]).distances() == [0.04, 0.02]


def test_the_passes_are_none_before_the_first_iteration_and_whole_epochs_before_every_other_one():
    made = problem_of(network(), network, n=200)
    plan = Schedule(METHOD.Config(batch_size=10, fractions=[0.5, 0.9, 1.0]), made)
    assert plan.lengths == [0, *[20] * 6]
    assert [plan.closes(number) for number in range(7)] == [0, None, None, 1, None, None, 2]
    untrained = Schedule(METHOD.Config(fractions=[0.5, 0.9, 1.0], rest_epochs=0), made)
    assert untrained.lengths == [0, 0, 0]
    assert [untrained.closes(number) for number in range(3)] == [0, 1, 2]


def test_running_statistics_are_those_of_the_final_weights(tmp_path):
    posterior, made = fit(tmp_path, config={"batch_size": 60})
    with torch.no_grad():
        weight, bias = posterior.mean()["conv.weight"], posterior.mean()["conv.bias"]
        out = torch.nn.functional.conv2d(made.train.inputs, weight, bias)
    assert torch.allclose(posterior.mean()["norm.running_mean"], out.mean((0, 2, 3)), atol=1e-5)
    left, _ = fit(tmp_path / "left", config={"batch_size": 60, "bn_reestimate_batches": 0})
    assert not torch.allclose(left.mean()["norm.running_mean"], out.mean((0, 2, 3)), atol=1e-3)


def test_a_frozen_layer_is_fixed_to_values_near_its_own_weights(tmp_path):
    made = problem_of(network(), network)
    made.network.conv.weight.requires_grad_(False)
    posterior, _ = fit(tmp_path, made, {"delta": 0.003, "lr": 0.1})
    own = weights_of(made.network)
    assert (posterior.mean()["conv.weight"] - own["conv.weight"]).abs().max() < 0.02
    assert (posterior.mean()["head.weight"] - own["head.weight"]).abs().max() > 0.1


# ---- stopping and repeating ----------------------------------------------------------------------------------------

WAYS = {
    "recommended": {},
    "paper": {"preset": "paper", "rest_epochs": 1},
    "untrained": {"rest_epochs": 0},
    "wide codes": {"delta": 0.003, "rest_epochs": 1, "fractions": [0.6, 1.0]},
}


@pytest.mark.parametrize("config", WAYS.values(), ids=WAYS)
def test_stopping_after_any_step_changes_no_byte_no_fact_and_no_record(tmp_path, config):
    whole, made = fit(tmp_path / "whole", config=config)
    parts, stops = None, 0
    while parts is None:
        try:
            parts, _ = fit(tmp_path / "parts", config=config, stop_requested=lambda: True)
        except Interrupted:
            stops += 1
    lengths = Schedule(METHOD.Config(**{**QUICK, **config}), made).lengths
    assert stops == sum(max(steps, 1) for steps in lengths)
    assert bytes_of(parts) == bytes_of(whole)
    assert told(parts) == told(whole)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")


def test_the_same_seed_gives_the_same_file(tmp_path):
    one, again = (bytes_of(fit(tmp_path / name)[0]) for name in ("one", "again"))
    assert one == again


# ---- unusual networks ----------------------------------------------------------------------------------------------


def plain(seed: int = 0) -> nn.Module:
    return with_statistics(lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3)), seed)


class Varied(nn.Module):
    """Depthwise and dilated convolutions, attention, tied weights, a bias of one element, tensors of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4, dilation=2, padding=2, padding_mode="reflect")
        self.attention = nn.MultiheadAttention(4, 2)
        self.norm = nn.LayerNorm(4)
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.gate, self.head = nn.Linear(4, 1), nn.Linear(4, 3)
        nn.init.zeros_(self.stem.bias)
        with torch.no_grad():
            self.head.weight[:, 0] = 0

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.depthwise(self.stem(x)).flatten(2).permute(2, 0, 1)
        mixed = self.norm(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(0))
        out: Tensor = self.head(self.two(self.one(mixed).relu()) * self.gate(mixed))
        return out


def varied(seed: int = 0) -> nn.Module:
    return with_statistics(Varied, seed)


def test_zeros_single_elements_groups_dilation_attention_and_ties_are_fixed(tmp_path):
    posterior, _ = fit(tmp_path, problem_of(varied(), varied))
    assert all(bool(tensor.isfinite().all()) for tensor in posterior.mean().values())
    assert bytes_of(decoded(bytes_of(posterior), varied(1))) == bytes_of(posterior)


def test_a_network_of_zeros_has_one_value(tmp_path):
    def build(seed: int = 0) -> nn.Module:
        net = plain(seed)
        for parameter in net.parameters():
            nn.init.zeros_(parameter)
        return net

    posterior, _ = fit(tmp_path, problem_of(build(), build), {"rest_epochs": 0})
    assert (posterior.facts()["unique"], posterior.facts()["entropy_bits"]) == (1, 0.0)


@pytest.mark.parametrize(("norm", "used"), [(True, False), (False, True)], ids=["statistics", "no statistics"])
def test_the_launcher_s_micro_batch_is_used_where_it_changes_no_number(tmp_path, caplog, norm, used):
    build = network if norm else plain
    caplog.set_level(logging.WARNING, logger="bnnbench")
    whole, _ = fit(tmp_path / "whole", problem_of(build(), build))
    parts, _ = fit(tmp_path / "parts", problem_of(build(), build), micro_batch=7)
    assert ("micro-batch would change" in caplog.text) == (not used)
    if not used:
        assert bytes_of(whole) == bytes_of(parts)


def test_a_fit_needs_no_validation_data(tmp_path):
    posterior, _ = fit(tmp_path, problem_of(network(), network, val=None))
    assert not [name for name in posterior.facts() if name.startswith("val_")]


# ---- failures ------------------------------------------------------------------------------------------------------


def test_a_nan_weight_fails_before_any_training(tmp_path):
    made = problem_of(network(), network)
    with torch.no_grad():
        made.network.conv.weight[0] = torch.nan
    with pytest.raises(Diverged, match=r"'conv\.weight' is nan"):
        fit(tmp_path, made)
    assert not (tmp_path / "history.jsonl").exists()


def test_a_weight_too_large_for_the_codes_is_refused_by_name(tmp_path):
    made = problem_of(network(), network)
    with torch.no_grad():
        made.network.head.bias[0] = 2000.0
    with pytest.raises(ConfigError, match=r"'head\.bias' is 2000; legal: up to 1024"):
        fit(tmp_path, made)


def test_a_network_without_layers_fails_before_any_training(tmp_path):
    def build(seed: int = 0) -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    with pytest.raises(ConfigError, match="no weight of a convolutional"):
        fit(tmp_path, problem_of(build(), build))


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"delta": 0.001}, r"delta\n.*greater than or equal to 0\.003"),
        ({"fractions": [0.5, 0.5]}, r"\[0\.5, 0\.5\] are no rising shares in \(0, 1\]"),
        ({"fractions": [0.5, 1.1]}, "no rising shares"),
        ({"fractions": []}, "fractions\n.*at least 1 item"),
        ({"preset": "papers"}, "Did you mean 'paper'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_make_no_sense_are_refused_with_what_would(given_settings, message):
    with pytest.raises(ValidationError, match=message):
        METHOD.Config(**given_settings)


def test_the_settings_that_a_worker_reads_back_are_the_same():
    for given_settings in ({}, {"preset": "paper"}, {"preset": "smoke"}):
        config = METHOD.Config(**given_settings)
        assert METHOD.Config(**config.identity()).identity() == config.identity()
    assert [need.method for need in METHOD.needs(METHOD.Config())] == ["map"]


# ---- digits --------------------------------------------------------------------------------------------------------


def test_a_perceptron_on_digits_keeps_its_likelihood_on_few_values(tmp_path):
    config = METHOD.Config(fractions=[0.5, 0.9, 1.0], rest_epochs=1, lr=1e-3)
    base, fitted, after = digits_nlls(tmp_path, METHOD, config, base_epochs=8)
    assert fitted == after
    assert fitted < base + 0.02

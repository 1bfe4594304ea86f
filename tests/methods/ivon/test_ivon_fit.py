"""Whole fits by IVON: the posterior, what the suite is told, stopping anywhere, and settings that are refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch
from ivon_cases import context, problem
from pydantic import ValidationError
from small_problems import split

from benchmark import BitReader, BitWriter, ConfigError, MissingPackage
from benchmark.errors import Interrupted
from benchmark.predict import predict
from methods.ivon import Ivon, package
from methods.mean_field import MeanField
from methods.mean_field.posterior import GaussianPosterior

QUICK = {"epochs": 2, "batch_size": 20}
SCRATCH = {**QUICK, "preset": "from_scratch", "beta2": 0.9, "epochs": 10}


def fit(folder, config=None, *, made=None, base=True, **options):
    """A fit on the small problem: (posterior, problem)."""
    made = made or problem()
    ctx = context(folder, made.network if base else None, **options)
    try:
        return Ivon().fit(made, ctx, Ivon.Config(**(QUICK if config is None else config))), made
    finally:
        ctx.close()


def tensors_of(posterior) -> dict[str, torch.Tensor]:
    return {**posterior.mean(), **{f"psi.{name}": psi for name, psi in posterior.log_sd.items()}}


def nll(posterior, net, data) -> float:
    """Mean NLL of the averaged prediction of 20 draws."""
    log_probs = predict(net, posterior, data, 20, torch.Generator().manual_seed(0)).log_probs
    return -float(log_probs[torch.arange(len(data)), data.labels].double().mean())


def test_a_fit_gives_gaussians_and_leaves_the_network_alone(tmp_path):
    made = problem()
    made.network.train()
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    posterior, _ = fit(tmp_path, made=made)
    assert isinstance(posterior, Ivon().posterior_type())
    assert all(torch.equal(before[name], tensor) for name, tensor in made.network.state_dict().items())
    assert all(module.training for module in made.network.modules())
    assert set(posterior.log_sd) == {"conv.weight", "head.weight"}
    for name, tensor in posterior.mean().items():
        assert not torch.equal(tensor, before[name]), name
        assert not tensor.requires_grad


def test_facts_are_finite_and_say_what_happened(tmp_path):
    posterior, _ = fit(tmp_path)
    facts = posterior.facts()
    assert all(math.isfinite(value) for value in facts.values() if not isinstance(value, str))
    expected = {
        "optimiser": "ivon",
        "lr": 0.1,
        "rest_optimiser": "sgd",
        "rest_lr": 1e-2 * 20 / 128,
        "l2": 5e-4,
        "l2_assumed": False,
        "n_data": 60,
        "tempered": False,
        "beta2": 0.9,
        "bn": "train",
        "precision": "fp32",
        "bayesian_weights": 72 + 24,
        "trained_weights": 8 + 8 + 3,
        "skipped_steps": 0,
        "sigma_init": "relative_rms",
        "marks": "",
    }
    assert {key: facts[key] for key in expected} == expected
    assert 1e-4 <= facts["hess_init_min"] <= facts["hess_init_max"]
    widest = -0.5 * math.log(60 * (facts["hess_init_min"] + 5e-4))
    assert facts["psi_start_q95"] == pytest.approx(widest, abs=1e-5)
    psi = torch.cat([psi.flatten() for psi in posterior.log_sd.values()]).double()
    assert facts["psi_mean"] == pytest.approx(float(psi.mean()), abs=1e-5)
    assert facts["psi_end_mean"] + math.log(facts["sigma_rescale"]) == pytest.approx(facts["psi_mean"], abs=1e-5)


def test_the_history_holds_selection_search_and_every_epoch(tmp_path):
    fit(tmp_path)
    records = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [record.get("event", record.get("epoch")) for record in records] == ["selection", "sigma_search", 1, 2]
    assert {"train_loss", "kl_over_n", "psi_mean", "skipped_steps"} <= set(records[2])
    assert records[2]["psi_mean"] != records[3]["psi_mean"]


@pytest.mark.parametrize("bn", ["train", "reestimate"])
def test_stopping_after_any_step_changes_no_bit(tmp_path, bn):
    config = {**QUICK, "bn": bn}
    whole, _ = fit(tmp_path / "whole", config)
    history = (tmp_path / "whole" / "history.jsonl").read_bytes()
    posterior, stops = None, 0
    while posterior is None:
        try:
            posterior, _ = fit(tmp_path / "parts", config, stop_requested=lambda: True)
        except Interrupted:
            stops += 1
    assert stops == 6  # two epochs of three steps, stopped after each
    expected, found = tensors_of(whole), tensors_of(posterior)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert posterior.facts() == whole.facts()
    assert (tmp_path / "parts" / "history.jsonl").read_bytes() == history


def test_a_fit_improves_the_likelihood_and_keeps_it_through_bytes(tmp_path):
    config = {"epochs": 10, "batch_size": 20, "lr": 0.3}
    made, test = problem(n=300, val=60), split(300, 2)
    untrained, _ = fit(tmp_path / "a", {**config, "lr": 1e-6, "lr_mu": 1e-6, "epochs": 1}, made=made)
    posterior, _ = fit(tmp_path / "b", config, made=made)
    assert nll(posterior, made.network, test) < 0.9 * nll(untrained, made.network, test)
    out = BitWriter()
    posterior.encode(out)
    decoded = GaussianPosterior.decode(BitReader(out.finish()), made.network)
    assert nll(decoded, made.network, test) == pytest.approx(nll(posterior, made.network, test), abs=0.01)


def test_training_from_scratch_needs_no_base_run(tmp_path):
    assert Ivon().needs(Ivon.Config(preset="from_scratch")) == ()
    assert [need.method for need in Ivon().needs(Ivon.Config())] == ["map"]
    made, test = problem(n=400), split(300, 2)
    posterior, _ = fit(tmp_path, SCRATCH, made=made, base=False)
    assert set(posterior.log_sd) == {name for name, _ in made.network.named_parameters()}
    facts = posterior.facts()
    assert (facts["l2"], facts["l2_assumed"], facts["hess_init_min"], facts["hess_init_max"]) == (2e-4, False, 0.5, 0.5)
    assert "sigma_scale" not in facts
    assert nll(posterior, made.network, test) < 0.8 * math.log(3)


def test_a_starting_curvature_decides_where_sigma_starts(tmp_path):
    config = {**QUICK, "sigma_search": False, "sigma_rescale": False, "hess_init": 3.0, "lr": 1e-6, "beta2": 0.999999}
    posterior, _ = fit(tmp_path, config)
    exact = -0.5 * math.log(60 * (3.0 + 5e-4))
    assert all((psi - exact).abs().max() < 1e-3 for psi in posterior.log_sd.values())
    assert posterior.facts()["psi_start_mean"] == pytest.approx(exact, abs=1e-6)


def test_sigma_starts_as_given(tmp_path):
    config = {**QUICK, "sigma_search": False, "sigma_rescale": False, "lr": 1e-6, "beta2": 0.999999}
    posterior, _ = fit(tmp_path, {**config, "sigma_init": {"kind": "constant", "value": 0.05}})
    assert all((psi - math.log(0.05)).abs().max() < 1e-3 for psi in posterior.log_sd.values())
    assert posterior.facts()["sigma_scale"] == 0.05


def test_noise_far_too_wide_for_the_validation_data_is_warned_of(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("methods.mean_field.stages.rescale_sigma", lambda *given: 0.125)
    posterior, _ = fit(tmp_path)
    assert posterior.facts()["sigma_rescale"] == 0.125
    assert "Try a beta2 nearer to 1 than 0.9" in caplog.text


def test_micro_batches_are_honoured_with_frozen_statistics(tmp_path):
    sizes, made = [], problem()
    made.network.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    fit(tmp_path, {**QUICK, "bn": "frozen"}, made=made, micro_batch=7)
    assert max(size for size in sizes if size != 16) <= 7  # 16: the check that replaced weights matter


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ivon", None)
    with pytest.raises(MissingPackage, match=r"ivon-opt.*pip install 'bnnbench\[ivon\]'"):
        fit(tmp_path)
    assert not list(tmp_path.iterdir())  # told before anything is computed


def test_a_package_that_lacks_something_itself_is_not_called_missing(monkeypatch):
    def fail(name):
        raise ModuleNotFoundError("No module named 'sparse'", name="sparse")

    monkeypatch.setattr(package, "import_module", fail)
    with pytest.raises(ModuleNotFoundError, match="sparse"):
        package.ivon_class()


def test_a_fit_without_base_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="base run"):
        fit(tmp_path, base=False)


@pytest.mark.parametrize("setting", ["sigma_search", "sigma_rescale"])
def test_a_search_without_validation_data_says_how_to_get_some(tmp_path, setting):
    other = {"sigma_search": {"sigma_rescale": False}, "sigma_rescale": {"sigma_search": False, "hess_init": 1.0}}
    with pytest.raises(ConfigError, match=rf"{setting}.*no validation split"):
        fit(tmp_path, {**QUICK, **other[setting]}, made=problem(val=None))


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        ({"precision": "fp16"}, ("precision", "bf16")),
        ({"clip_norm": 1.0}, ("clip_norm", "lr")),
        ({"hess_approx": "gradsq"}, ("hess_approx",)),
        ({"hess_init": 1.0}, ("hess_init", "sigma_search")),
        ({"hess_init": 0, "sigma_search": False}, ("hess_init",)),
        ({"sigma_init": {"kind": "constant", "value": 0.1}}, ("sigma_init.value", "sigma_search")),
        ({"sigma_init": {"kind": "uniform_log"}}, ("sigma_init", "relative_rms")),
        ({"sigma_search": False}, ("hess_init", "sigma_init.value")),
        ({"start": "scratch"}, ("start", "l2")),
        ({"start": "scratch", "l2": 1e-4}, ("start", "sigma_search")),
        ({"beta2": 1.0}, ("beta2",)),
        ({"epochs": 0}, ("epochs",)),
        ({"l2": 0}, ("l2",)),
        ({"preset": "from_scrach"}, ("from_scratch",)),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_by_name(config, fields):
    with pytest.raises(ValidationError) as error:
        Ivon.Config(**config)
    assert all(field in str(error.value) for field in fields)


def test_the_recommended_schedule_is_that_of_mean_field():
    own, other = Ivon.Config().identity(), MeanField.Config().identity()
    shared = own.keys() & other.keys()
    assert {key for key in shared if own[key] != other[key]} == {"optim_mu"}


def test_the_published_presets_hold_the_numbers_of_the_released_code():
    cifar, imagenet = (Ivon.Config(preset=name) for name in ("from_scratch", "from_scratch_imagenet"))
    assert (cifar.lr, cifar.beta2, cifar.l2, cifar.hess_init, cifar.batch_size, cifar.epochs) == (
        0.2,
        0.99999,
        2e-4,
        0.5,
        50,
        200,
    )
    found = (imagenet.lr, imagenet.beta2, imagenet.l2, imagenet.hess_init, imagenet.batch_size)
    assert found == (2.5, 0.999995, 5e-5, 0.05, 1024)


def test_declaring_the_method_imports_neither_torch_nor_the_package():
    code = "import sys, methods.ivon as m; m.Ivon.Config(); sys.exit(bool({'torch', 'ivon'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""The base network: what is minimised, which epoch is kept, resume, members."""

import json
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from benchmark import BitReader, BitWriter, ConfigError, Context, Diverged, Problem, Split, evaluating, weights_of
from benchmark.errors import Interrupted
from methods.map import Map
from methods.map.evaluation import evaluate
from methods.map.fit import fit_point
from methods.map.posterior import TrainedPoint
from methods.map.recipe import Recipe, decays, rate, recipe_for

Config = Map.Config
PLAIN = {"epochs": 3, "batch_size": 16}


def perceptron(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def convolutional(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def noise(inputs, generator):
    return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


def split(n, seed, augment=None):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=generator)
    inputs = torch.randn(n, 1, 2, 2, generator=generator) + labels.view(-1, 1, 1, 1)
    return Split(inputs, labels, augment)


def problem(build=perceptron, val=True, n=40, **changes):
    settings = {"train": split(n, 0, noise), "val": split(30, 1) if val else None}
    settings.update(changes)
    return Problem(build(0), build, **settings, input_shape=(1, 2, 2), n_classes=3, draws=20)


def context(folder, **changes):
    return Context(folder, ("task", "net", "map", 0), **changes)


def fit(folder, config, **changes):
    return Map().fit(problem(**changes), context(folder), Config(**config))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def history(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


# --- what is minimised --------------------------------------------------------------------------------------------


def test_weights_decay_and_norms_and_biases_do_not():
    assert decays(convolutional(0)) == {
        "0.weight": True,
        "1.weight": False,
        "1.bias": False,
        "5.weight": True,
        "5.bias": False,
    }


def test_names_that_the_network_exempts_do_not_decay():
    class Tokens(nn.Linear):
        def no_weight_decay(self):
            return {"weight"}

    assert decays(Tokens(2, 2)) == {"weight": False, "bias": False}


def test_auto_depends_on_norms_and_size():
    assert recipe_for(convolutional(0), Config()) == Recipe("sgd", 0.1, 5e-4)
    assert recipe_for(perceptron(0), Config()) == Recipe("adamw", 5e-3, 0.05)
    assert recipe_for(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3)), Config()) == Recipe("adamw", 2e-3, 0.05)
    large = nn.Sequential(nn.Linear(1000, 1000), nn.BatchNorm1d(1000))
    assert recipe_for(large, Config()) == Recipe("sgd", 0.05, 5e-4)
    assert recipe_for(perceptron(0), Config(optimiser="sgd", lr=1, weight_decay=0)) == Recipe("sgd", 1.0, 0.0)


def test_sgd_converges_to_the_stationary_point_of_the_penalised_loss(tmp_path):
    # One full batch without augmentation: at the minimum, gradient of the loss = -l2 * w on weights, 0 on biases.
    data = split(40, 0)
    task = problem(train=data, val=None, build=lambda seed: nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    config = Config(optimiser="sgd", lr=0.5, weight_decay=0.05, epochs=400, batch_size=40)
    fitted = Map().fit(task, context(tmp_path), config)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    network.load_state_dict(fitted.weights)
    nn.functional.cross_entropy(network(data.inputs), data.labels).backward()
    l2 = fitted.facts()["l2"]
    assert l2 == 0.05
    assert torch.allclose(network[1].weight.grad, -l2 * network[1].weight, atol=1e-5)
    assert torch.allclose(network[1].bias.grad, torch.zeros(3), atol=1e-5)


def test_facts_tell_coupled_from_decoupled_decay(tmp_path):
    sgd = fit(tmp_path / "a", {**PLAIN, "optimiser": "sgd", "weight_decay": 0.01}).facts()
    adamw = fit(tmp_path / "b", {**PLAIN, "optimiser": "adamw", "weight_decay": 0.01}).facts()
    assert (sgd["optimiser"], sgd["l2"], sgd["decoupled_weight_decay"]) == ("sgd", 0.01, 0.0)
    assert (adamw["optimiser"], adamw["l2"], adamw["decoupled_weight_decay"]) == ("adamw", 0.0, 0.01)


def test_label_smoothing_changes_the_fit(tmp_path):
    assert not same(fit(tmp_path / "a", PLAIN).weights, fit(tmp_path / "b", {**PLAIN, "label_smoothing": 0.1}).weights)


# --- the course of the rate ---------------------------------------------------------------------------------------


def test_cosine_rises_linearly_and_falls_to_nearly_zero():
    config = Config(warmup=0.1)
    rates = [rate(t, 100, 2.0, config) for t in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (t + 1) for t in range(10)])
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)  # half-way through the cosine
    assert 0 < rates[99] < 1e-3
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_cosine_with_a_floor_ends_there():
    config = Config(warmup=0.1, min_lr=0.05)
    rates = [rate(t, 1000, 2.0, config) for t in range(1000)]
    assert rates[100] == 2.0
    assert rates[550] == pytest.approx((2.0 + 0.1) / 2)
    assert rates[999] == pytest.approx(0.1, rel=1e-4)
    assert min(rates[100:]) >= 0.1


def test_the_preset_wrn_drops_at_epochs_60_120_and_160_of_200():
    config = Config(preset="wrn")
    steps = 7
    rates = [rate(t, 200 * steps, config.lr, config) for t in range(200 * steps)]
    drops = [t for t in range(1, 200 * steps) if rates[t] != rates[t - 1]]
    assert drops == [60 * steps, 120 * steps, 160 * steps]
    assert sorted(set(rates), reverse=True) == pytest.approx([0.1, 0.02, 0.004, 0.0008])
    assert (config.epochs, config.batch_size, config.weight_decay, config.select) == (200, 256, 2e-4, "last")


def test_a_constant_rate_is_constant_after_warm_up():
    assert {rate(t, 50, 0.3, Config(schedule="constant", warmup=0)) for t in range(50)} == {0.3}


# --- which epoch is kept ------------------------------------------------------------------------------------------


def over_fitting(folder, **config):
    """Random labels: validation NLL is lowest early and rises; returns the posterior and the history."""
    labels = torch.randint(0, 3, (30,), generator=torch.Generator().manual_seed(5))
    task = problem(train=Split(split(30, 0).inputs, labels), val=split(30, 1))
    settings = {"epochs": 12, "batch_size": 10, "lr": 0.02, "schedule": "constant", **config}
    ctx = context(folder)
    fitted = Map().fit(task, ctx, Config(**settings))
    ctx.close()
    return task, fitted, history(folder)


def test_the_epoch_of_lowest_validation_nll_is_kept(tmp_path):
    task, fitted, records = over_fitting(tmp_path)
    nlls = [record["val_nll"] for record in records]
    facts = fitted.facts()
    assert nlls.index(min(nlls)) + 1 == facts["best_epoch"] < facts["epochs_run"] == 12
    assert facts["val_nll"] == min(nlls)
    network = perceptron(9)
    network.load_state_dict(fitted.weights)
    found = evaluate(network, task.val)
    assert found.nll == pytest.approx(facts["val_nll"], abs=1e-12)
    assert found.accuracy == facts["val_accuracy"]


def test_patience_stops_so_many_epochs_after_the_best_with_the_same_weights(tmp_path):
    _, whole, _ = over_fitting(tmp_path / "whole")
    _, stopped, records = over_fitting(tmp_path / "stopped", patience=2)
    assert len(records) == stopped.facts()["epochs_run"] == whole.facts()["best_epoch"] + 2
    assert same(whole.weights, stopped.weights)


def test_select_last_keeps_the_last_epoch(tmp_path):
    _, fitted, records = over_fitting(tmp_path, select="last")
    assert fitted.facts()["best_epoch"] == 12
    assert fitted.facts()["val_nll"] == records[-1]["val_nll"]


def test_without_validation_data_the_last_epoch_is_kept(tmp_path):
    best, last = ({**PLAIN, "select": select} for select in ("best", "last"))
    a, b = fit(tmp_path / "a", best, val=None), fit(tmp_path / "b", last, val=None)
    assert same(a.weights, b.weights)
    assert a.facts()["best_epoch"] == 3
    assert "val_nll" not in a.facts()


def test_validation_does_not_change_what_is_learned(tmp_path):
    # Batch statistics and dropout would show any pass over the validation data in training mode.
    last = {**PLAIN, "select": "last"}
    with_val = fit(tmp_path / "a", last, build=convolutional)
    without = fit(tmp_path / "b", last, build=convolutional, val=None)
    assert same(with_val.weights, without.weights)


def test_evaluation_leaves_every_module_in_its_own_mode():
    network = convolutional(0)
    network.train()
    network[1].eval()
    with evaluating(network):
        assert not any(module.training for module in network.modules())
    assert [module.training for module in network] == [True, False, True, True, True, True]


def test_evaluation_is_the_mean_over_examples_whatever_the_batches():
    network, data = convolutional(0), split(30, 1)
    with evaluating(network), torch.no_grad():
        log_probs = network(data.inputs).double().log_softmax(-1)
    expected = -log_probs[torch.arange(30), data.labels].mean().item()
    for batch_size in (7, 30, 256):
        found = evaluate(network, data, batch_size)
        assert found.nll == pytest.approx(expected, abs=1e-6)  # float32 forward passes of other shapes
        assert found.accuracy == (log_probs.argmax(-1) == data.labels).double().mean().item()


def test_the_budget_scales_epochs(tmp_path):
    task = problem(budget=0.5)
    assert Map().fit(task, context(tmp_path), Config(epochs=6, batch_size=16)).facts()["epochs_run"] == 3


# --- determinism, resume, members ---------------------------------------------------------------------------------


def test_equal_seeds_give_equal_bits_and_the_problem_keeps_its_network(tmp_path):
    task = problem(convolutional)
    before = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}
    first = Map().fit(task, context(tmp_path / "a"), Config(**PLAIN))
    second = Map().fit(task, context(tmp_path / "b"), Config(**PLAIN))
    assert same(first.weights, second.weights)
    assert same(before, task.network.state_dict())
    assert not same(first.weights, weights_of(task.network))


def interrupted_fit(folder, method, task, config, stop_at):
    """Fit, asked to stop at its `stop_at`-th offer (from 1), then go on; None when there are fewer offers."""
    offers = iter(range(1, 10_000))
    ctx = context(folder, stop_requested=lambda: next(offers) == stop_at, checkpoint_seconds=0)
    try:
        method.fit(task, ctx, config)
    except Interrupted:
        ctx.close()
        again = context(folder)
        fitted = method.fit(task, again, config)
        again.close()
        return fitted
    return None


@pytest.mark.parametrize(("build", "config"), [(convolutional, {}), (perceptron, {"member": 1, "patience": 1})])
def test_interrupted_at_any_offer_and_resumed_equals_uninterrupted(tmp_path, build, config):
    task, config = problem(build), Config(epochs=3, batch_size=16, **config)
    ctx = context(tmp_path / "whole")
    whole = Map().fit(task, ctx, config)
    ctx.close()
    stop_at = 0
    while True:
        stop_at += 1
        folder = tmp_path / str(stop_at)
        resumed = interrupted_fit(folder, Map(), task, config, stop_at)
        if resumed is None:
            break
        assert same(whole.weights, resumed.weights), f"stopped at offer {stop_at}"
        assert whole.facts() == resumed.facts()
        assert history(folder) == history(tmp_path / "whole")
    assert stop_at - 1 == 3 * whole.facts()["epochs_run"]  # one offer per step, 40 examples in batches of 16


def test_members_differ_in_initialisation_and_in_the_order_of_data(tmp_path):
    seeds = []

    def build(seed):
        seeds.append(seed)
        return perceptron(0)  # the same weights for every member: only order and augmentation are left to differ

    fits = [fit(tmp_path / str(m), {**PLAIN, "member": m}, build=build).weights for m in range(3)]
    assert not same(fits[0], fits[1])
    assert not same(fits[1], fits[2])
    assert len(set(seeds)) == 3  # 0 for the problem's own network, one seed each for members 1 and 2


def test_member_zero_starts_from_the_problems_network(tmp_path):
    task = problem()
    own = fit_point(perceptron(0), task, context(tmp_path / "a"), Config(**PLAIN))
    assert same(own.weights, Map().fit(task, context(tmp_path / "b"), Config(**PLAIN)).weights)


# --- bytes, errors, settings --------------------------------------------------------------------------------------


def test_bytes_hold_the_weights_and_running_statistics_exactly(tmp_path):
    posterior = fit(tmp_path, PLAIN, build=convolutional)
    assert "1.running_mean" in posterior.weights
    out = BitWriter()
    posterior.encode(out)
    src = BitReader(out.finish())
    back = Map().posterior_type().decode(src, convolutional(1))
    src.finish()
    assert type(back) is TrainedPoint
    assert same(dict(posterior.weights), dict(back.weights))
    assert back.support == 1


def test_divergence_is_reported_with_a_lower_rate_to_try(tmp_path):
    with pytest.raises(Diverged, match=r"epoch 1 is (nan|inf).*'lr: 3.3e\+29'"):
        fit(tmp_path, {**PLAIN, "optimiser": "sgd", "lr": 1e30, "warmup": 0})


def test_divergence_in_the_very_last_step_is_seen_without_validation_data(tmp_path):
    one_step = {"epochs": 1, "batch_size": 40, "optimiser": "sgd", "lr": 1e39, "warmup": 0, "schedule": "constant"}
    with pytest.raises(Diverged, match="a trained weight is nan"):
        fit(tmp_path, one_step, val=None)


def test_patience_without_validation_data_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'patience: 3' needs a validation split"):
        fit(tmp_path, {"patience": 3}, val=None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": -1}, "greater than or equal to 0"),
        ({"lr": 0}, "greater than 0"),
        ({"lr": float("inf")}, "finite"),
        ({"weight_decay": -1e-4}, "greater than or equal to 0"),
        ({"warmup": 1}, "less than 1"),
        ({"label_smoothing": 1}, "less than 1"),
        ({"member": -1}, "greater than or equal to 0"),
        ({"optimiser": "adam"}, "'auto', 'sgd' or 'adamw'"),
        ({"patience": 2, "select": "last"}, "'patience'.*'select: last'"),
        ({"milestones": [0.6, 0.3]}, "'milestones' must ascend"),
        ({"milestones": [0.5, 1.0]}, "less than 1"),
        ({"min_lr": 1.5}, "less than or equal to 1"),
        ({"accumulate": 0}, "greater than or equal to 1"),
        ({"accumulate": 8, "batch_size": 4}, "'accumulate: 8' asks for more parts than 'batch_size: 4' has"),
        ({"mixup": -0.1}, "greater than or equal to 0"),
        ({"cutmix": float("inf")}, "less than or equal to 100|finite"),
        ({"ema": 1.0}, "less than 1"),
        ({"clip_norm": 0}, "greater than 0"),
        ({"precision": "auto"}, "'fp32', 'bf16' or 'fp16'"),
        ({"preset": "wnr"}, r"Did you mean 'wrn'\?"),
        ({"learning_rate": 0.1}, "Extra inputs"),
    ],
)
def test_settings_out_of_bounds_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Config(**settings)


def test_every_setting_is_described():
    for name, field in Config.model_fields.items():
        assert name == "preset" or field.description, name


def test_the_base_run_of_other_methods_is_the_default_run():
    assert Config(member=0).identity() == Config().identity()
    assert Map().needs(Config()) == ()


@pytest.mark.parametrize("module", ["map", "map_temperature", "deep_ensemble", "mc_dropout"])
def test_declarations_import_without_torch(module):
    code = f"import sys, methods.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_training_does_not_import_the_compiler(tmp_path):
    # torch.optim's classes do, at the cost of seconds per run: longer than a small network trains.
    code = (
        "import sys, torch\nfrom torch import nn\nfrom methods.map.config import TrainingConfig\n"
        "from methods.map.recipe import build_optimiser, recipe_for\n"
        "for net in (nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))):\n"
        "    optimiser = build_optimiser(net, recipe_for(net, TrainingConfig()))\n"
        "    net(torch.randn(4, 2)).sum().backward()\n    optimiser.step(0.1)\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

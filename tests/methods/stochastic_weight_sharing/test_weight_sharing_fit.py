"""Whole fits: what is shared, what is trained, what the row is told, and stopping anywhere."""

from __future__ import annotations

import contextlib

import pytest
import torch
from small_problems import bytes_of, context_of, history, problem_of, told
from small_problems import small_with_token as network
from torch import nn

from benchmark import ConfigError, NeededRun, PointMass, WeightSamples, weights_of
from benchmark.errors import Interrupted
from methods.finetuning.select import layer_weights
from methods.mean_field.posterior import GaussianPosterior
from methods.stochastic_weight_sharing import StochasticWeightSharing, record
from methods.stochastic_weight_sharing import fit as fitting

METHOD = StochasticWeightSharing()
SVG = '<svg xmlns="http://www.w3.org/2000/svg"/>'
QUICK = {"epochs": 2, "batch_size": 20, "components": 12, "outlier_fraction": 0.02, "lr_codebook": 1e-2, "lr_mu": 1e-2}
PAPER = {
    "preset": "paper",
    "epochs": 1,
    "batch_size": 20,
    "components_init": 12,
    "outlier_size": 0.5,
    "outlier_cluster": 1,
}
SPECIFIED = {
    "weights outliers outlier_fraction ellipses gaussians_init gaussians merges mean_kl_nats rel_mse_mu "
    "index_entropy_bits kl_weight elbo_per_datum val_nll_base val_nll_stage1 val_nll_shared val_nll_final "
    "trainable_scalars seconds_stage1 seconds_stage2 seconds_stage3 sampling scope cluster"
}


def source_of(net: nn.Module) -> GaussianPosterior:
    """Gaussians around a network whose other parameters and statistics differ from its own."""
    own = weights_of(net)
    names = layer_weights(net)
    mean = {name: own[name] * 1.01 for name in names}
    generator = torch.Generator().manual_seed(1)
    log_sd = {name: -3 + torch.rand(own[name].shape, generator=generator) for name in names}
    rest = {name: tensor + 0.01 for name, tensor in own.items() if name not in names}
    return GaussianPosterior(mean, log_sd, rest)


def fit(folder, config=None, *, source=None, made=None, **options):
    """(posterior, problem); source: the needed run's posterior, or "base"."""
    made = made or problem_of(network(), network)
    settings = METHOD.Config(
        **({} if source != "base" else {"source": "base"}), **(QUICK if config is None else config)
    )
    ctx = context_of("2dgbnn", folder, made.network, **options)
    if source != "base":
        needed = NeededRun("mean_field", {}, {}, source or source_of(made.network))
        ctx.needed = (*ctx.needed, needed)
    try:
        return METHOD.fit(made, ctx, settings), made
    finally:
        ctx.close()


@pytest.fixture(autouse=True)
def _quick_figure(request, monkeypatch):
    """A picture takes longer than a fit of this size; one test draws it."""
    if request.node.name != "test_the_plane_is_drawn_into_the_run_folder":
        monkeypatch.setattr(fitting, "plane_figure", lambda plane, shared, beyond: SVG)


def test_the_plane_is_drawn_into_the_run_folder(tmp_path):
    fit(tmp_path, {**QUICK, "epochs": 0})
    drawn = (tmp_path / "figures" / "plane.svg").read_text()
    assert "12 shared Gaussians" in drawn
    assert "2 outliers" in drawn


def test_a_fit_leaves_the_network_alone_and_holds_a_weight_for_every_parameter_and_statistic(tmp_path):
    made = problem_of(network(), network)
    made.network.train()
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    posterior, _ = fit(tmp_path, made=made)
    assert all(torch.equal(before[name], tensor) for name, tensor in made.network.state_dict().items())
    assert all(module.training for module in made.network.modules())
    assert all(parameter.grad is None for parameter in made.network.parameters())
    assert posterior.mean().keys() == weights_of(made.network).keys()


def test_training_moves_codewords_outliers_and_the_rest_and_no_label(tmp_path):
    shared, _ = fit(tmp_path / "shared", {**QUICK, "epochs": 0, "refresh": False})
    tuned, _ = fit(tmp_path / "tuned", {**QUICK, "refresh": False, "keep": "last"})
    assert torch.equal(shared.gaussians.labelling.symbols, tuned.gaussians.labelling.symbols)
    for name, before in shared.gaussians.trained().items():
        assert not torch.equal(before, tuned.gaussians.trained()[name]), name
    for name in ("norm.weight", "head.bias", "token"):
        assert not torch.equal(shared.mean()[name], tuned.mean()[name]), name


def test_the_rest_starts_from_the_source_and_not_from_the_base_network(tmp_path):
    posterior, made = fit(tmp_path, {**QUICK, "epochs": 0, "refresh": False})
    own = weights_of(made.network)
    for name in ("norm.weight", "norm.running_mean", "head.bias", "token"):
        assert torch.allclose(posterior.mean()[name], own[name] + 0.01), name


def test_frozen_statistics_are_those_of_the_refresh_and_training_ones_move(tmp_path):
    def statistics(**config):
        posterior, _ = fit(tmp_path / str(config), {**QUICK, "keep": "last", **config})
        return posterior.mean()["norm.running_mean"]

    refreshed = statistics(epochs=0)
    assert not torch.allclose(refreshed, statistics(epochs=0, refresh=False), atol=1e-3)
    assert torch.equal(refreshed, statistics())
    assert not torch.equal(refreshed, statistics(bn="train"))


@pytest.mark.parametrize("config", [QUICK, PAPER], ids=["recommended", "paper"])
def test_the_row_is_told_everything_that_the_specification_lists(tmp_path, config):
    posterior, _ = fit(tmp_path, config)
    (names,) = SPECIFIED
    missing = set(names.split()) - posterior.facts().keys()
    assert not missing
    assert posterior.facts()["marks"] == ("tempered" if config is QUICK else "tied noise")


@pytest.mark.parametrize("config", [QUICK, PAPER, {**QUICK, "bn": "train"}], ids=["recommended", "paper", "bn"])
def test_stopping_after_any_step_changes_no_byte_and_no_fact(tmp_path, config):
    whole, _ = fit(tmp_path / "whole", config)
    parts, stops = None, 0
    while parts is None:
        try:
            parts, _ = fit(tmp_path / "parts", config, stop_requested=lambda: True)
        except Interrupted:
            stops += 1
    assert stops == (3 if config is PAPER else 6)
    assert bytes_of(parts) == bytes_of(whole)
    assert told(parts) == told(whole)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")


def test_the_sharing_is_not_repeated_when_a_run_goes_on(tmp_path, monkeypatch):
    with contextlib.suppress(Interrupted):
        fit(tmp_path, stop_requested=lambda: True)
    monkeypatch.setattr(fitting, "share", None)
    posterior, _ = fit(tmp_path)
    assert posterior.facts()["gaussians"] == 12


def test_the_best_epoch_is_kept_and_the_sharing_itself_is_one_of_them(tmp_path):
    posterior, _ = fit(tmp_path, {**QUICK, "lr_codebook": 5.0, "lr_mu": 5.0})
    shared, _ = fit(tmp_path / "shared", {**QUICK, "epochs": 0})
    assert posterior.facts()["epoch_kept"] == 0
    assert bytes_of(posterior) == bytes_of(shared)


def test_any_posterior_with_a_spread_is_a_source(tmp_path):
    members = [weights_of(network(seed)) for seed in range(4)]
    posterior, made = fit(tmp_path, {**QUICK, "epochs": 0, "refresh": False}, source=WeightSamples(members))
    stack = torch.stack([member["norm.bias"] for member in members])
    assert torch.allclose(posterior.mean()["norm.bias"], stack.mean(0), atol=1e-6)
    assert posterior.facts()["weights"] == sum(
        made.network.get_parameter(name).numel() for name in layer_weights(made.network)
    )


def test_a_point_is_no_source_and_says_what_is(tmp_path):
    with pytest.raises(ConfigError, match=r"PointMass.*source: base"):
        fit(tmp_path, source=PointMass(weights_of(network())))


def test_the_base_network_is_a_source_with_a_deviation_in_proportion_to_each_tensor(tmp_path):
    posterior, made = fit(tmp_path, {**QUICK, "epochs": 0, "components": 500, "outlier_fraction": 0}, source="base")
    weight = made.network.get_parameter("conv.weight")
    mean, sd = posterior.mean_and_sd()
    assert torch.allclose(mean["conv.weight"], weight, atol=1e-6)
    assert torch.allclose(sd["conv.weight"], 0.02 * weight.std(correction=0).expand_as(weight), rtol=1e-4)


def test_a_constant_tensor_is_not_shared(tmp_path, caplog):
    net = network()
    with torch.no_grad():
        net.head.weight.fill_(0.1)
    posterior, _ = fit(tmp_path, {**QUICK, "epochs": 0}, made=problem_of(net, network), source="base")
    assert posterior.facts()["weights"] == net.conv.weight.numel()
    assert "head.weight" in caplog.text


def test_without_validation_data_the_last_epoch_is_kept(tmp_path, caplog):
    posterior, _ = fit(tmp_path, made=problem_of(network(), network, val=None))
    assert (posterior.facts()["keep"], posterior.facts()["epoch_kept"]) == ("last", 2)
    assert not [name for name in posterior.facts() if name.startswith("val_nll")]
    assert "no validation data" in caplog.text


def test_prediction_leaves_the_statistics_of_the_network_alone(tmp_path):
    from benchmark.predict import predict

    posterior, made = fit(tmp_path)
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    predict(made.network, posterior, made.val, 5, torch.Generator().manual_seed(0))
    assert all(torch.equal(before[name], tensor) for name, tensor in made.network.state_dict().items())


@pytest.mark.parametrize("sampling", ["independent", "tied"])
@pytest.mark.parametrize("codebook", ["1d", "2d"])
@pytest.mark.parametrize("blend", ["off", "moments"])
def test_every_combination_of_codebook_noise_and_blending_trains(tmp_path, codebook, sampling, blend):
    config = {**QUICK, "codebook": codebook, "sampling": sampling, "blend": blend, "keep": "last"}
    before, _ = fit(tmp_path / "before", {**config, "epochs": 0})
    after, _ = fit(tmp_path / "after", config)
    assert not torch.equal(before.gaussians.codebook.table, after.gaussians.codebook.table)
    assert after.facts()["kl_nats_per_datum"] != before.facts()["kl_nats_per_datum"]


def test_the_gaussians_come_from_a_run_of_their_own_that_has_this_runs_prior():
    config = METHOD.Config(kl_weight=0.3, l2=1e-3)
    base, gaussians = METHOD.needs(config)
    assert base.method == "map"
    assert (gaussians.method, gaussians.config["preset"]) == ("mean_field", "before_sharing")
    assert (gaussians.config["kl_temperature"], gaussians.config["l2"]) == (0.3, 1e-3)
    assert METHOD.needs(METHOD.Config(preset="paper"))[1].config["preset"] == "before_sharing_paper"
    assert METHOD.needs(METHOD.Config(source="base")) == (base,)
    ensemble = METHOD.Config(source={"method": "deep_ensemble", "settings": {"members": 4}})
    assert METHOD.needs(ensemble)[1].config == {"members": 4}


def test_runs_that_differ_in_sharing_alone_need_the_same_gaussians():
    one, two = (METHOD.needs(METHOD.Config(components=k, epochs=k)) for k in (16, 64))
    assert one == two


def test_the_settings_that_a_worker_reads_back_need_the_same_runs():
    for given in ({"preset": "paper"}, {"preset": "smoke"}, {}):
        config = METHOD.Config(**given)
        assert METHOD.needs(METHOD.Config(**config.identity())) == METHOD.needs(config)


def test_the_seconds_of_training_count_all_attempts(monkeypatch):
    now = iter(range(0, 1_000_000, 10))  # every look at the clock is ten seconds after the one before
    monkeypatch.setattr(record.time, "monotonic", lambda: float(next(now)))
    first = record.Record()
    first.begin()
    saved = first.state_dict()
    assert saved["seconds"] == 10
    resumed = record.Record()
    resumed.begin()
    resumed.load_state_dict(saved)
    assert resumed.seconds == 20


def test_a_source_without_deviations_of_weights_is_refused(tmp_path):
    net = network()
    own = weights_of(net)
    rest = {name: tensor for name, tensor in own.items() if name != "head.bias"}
    biases = GaussianPosterior({"head.bias": own["head.bias"]}, {"head.bias": torch.full((3,), -3.0)}, rest)
    with pytest.raises(ConfigError, match="source has no standard deviation"):
        fit(tmp_path, source=biases, made=problem_of(net, network))

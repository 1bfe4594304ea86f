"""Whole fits: what is trained and reported, what the network keeps, the loss, and stopping anywhere."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch
from last_block_cases import context, hooks, problem
from pydantic import ValidationError

from benchmark import ConfigError, Context
from benchmark.errors import Interrupted
from methods.finetuning.base_run import recipe_for
from methods.finetuning.loop import Schedule
from methods.last_block_ensemble import LastBlockEnsemble
from methods.last_block_ensemble.block import features_of
from methods.last_block_ensemble.features import distance, hinge
from methods.last_block_ensemble.fit import _Fit
from methods.last_block_ensemble.locate import locate

QUICK = {"epochs": 2, "batch_size": 20, "components": 4, "lr_mu": 0.01, "lr_rest": 0.001}


def fit(folder, config=None, *, made=None, **options):
    """A fit on the small problem: (posterior, problem)."""
    method, made = LastBlockEnsemble(), made or problem()
    ctx = context(folder, made.network, **options)
    try:
        return method.fit(made, ctx, method.Config(**(QUICK if config is None else config))), made
    finally:
        ctx.close()


def learner_of(folder, config, made):
    """The learner of a fit before its first step."""
    ctx = context(folder, made.network)
    settings = LastBlockEnsemble.Config(**config)
    stages = _Fit(made, ctx, settings, recipe_for(settings, ctx), locate(made.network, 1, made.train, 0))
    return stages._learner(Schedule.of(made, ctx, settings, divisible=False))


def tensors_of(posterior) -> dict[str, torch.Tensor]:
    return {**posterior.shared, **posterior.stacks}


def test_a_fit_moves_copies_apart_and_the_rest_and_leaves_the_network_alone(tmp_path):
    made = problem()
    made.network.train()
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    posterior, _ = fit(tmp_path, made=made)
    assert all(torch.equal(before[name], tensor) for name, tensor in made.network.state_dict().items())
    assert all(module.training for module in made.network.modules())
    assert all(parameter.grad is None for parameter in made.network.parameters())
    assert hooks(made.network) == 0
    assert "block2.scale" in posterior.shared
    for name, tensor in posterior.shared.items():
        # A bias before batch norm has no gradient.
        assert torch.equal(tensor, before[name]) == (name == "block1.conv.bias"), name
        assert not tensor.requires_grad
    for name, stack in posterior.stacks.items():
        assert stack.shape == (4, *before[name].shape)
        assert not torch.equal(stack[0], stack[1]), name
        assert not stack.requires_grad


def test_facts_are_finite_and_say_what_happened(tmp_path):
    posterior, made = fit(tmp_path)
    facts = posterior.facts()
    assert all(math.isfinite(value) for value in facts.values() if not isinstance(value, str))
    expected = {
        "components": 4,
        "blocks": 1,
        "copied_weights": (4 * 2 * 9 + 4) + 3 * 2 * 4 + (4 * 4 + 4),
        "without_copies": "block2.scale",
        "entrance": "block2",
        "features": "block2",
        "alpha": 0.3,
        "optimiser": "sgd",
        "lr": 0.01,
        "lr_rest": 0.001,
        "l2": 5e-4,
        "bn": "train",
        "precision": "fp32",
        "skipped_steps": 0,
    }
    assert {key: facts[key] for key in expected} == expected
    with torch.no_grad(), features_of(made.network, "block2") as kept:
        made.network(made.train.inputs)
    assert facts["gamma"] == pytest.approx(2.5 * float(kept["features"].square().mean()), rel=1e-5)
    assert facts["feature_distance_clean"] > 0
    assert facts["feature_distance_noisy"] > 0


def test_the_history_names_the_block_and_the_distance_of_every_epoch(tmp_path):
    fit(tmp_path)
    records = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [record.get("event", record.get("epoch")) for record in records] == ["block", 1, 2]
    assert "block2.conv.weight" in records[0]["copied"].split()
    assert records[0]["without_copies"] == "block2.scale"
    assert all(record["noisy_distance"] > 0 for record in records[1:])


def test_training_drives_members_apart_on_noise_beyond_gamma(tmp_path):
    config = {**QUICK, "epochs": 8, "alpha": 10.0, "gamma": 0.3}
    asked = fit(tmp_path / "asked", config)[0].facts()["feature_distance_noisy"]
    plain = fit(tmp_path / "plain", {**config, "alpha": 0.0})[0].facts()["feature_distance_noisy"]
    assert plain < 0.1
    assert asked > 0.3  # beyond gamma nothing pulls the members together, and momentum goes on


def test_the_hinge_has_a_gradient_only_once_the_members_differ(tmp_path):
    made = problem()
    learner = learner_of(tmp_path, {**QUICK, "alpha": 1e4, "bn": "frozen"}, made)
    labels = made.train.labels[:20]

    def hinge_gradient() -> float:
        """Of the copies, by what alpha adds to the gradient of the likelihood."""
        found = []
        for alpha in (0.0, 1e4):
            learner._alpha = alpha
            learner._generator.manual_seed(0)
            learner._noise._choices.manual_seed(0)
            learner._noise._pixels.manual_seed(0)
            learner.begin()
            loss = learner.loss(made.train.inputs[:20], labels)
            found.append(torch.autograd.grad(loss, list(learner.copies.trained.values())))
        return max(float((a - b).abs().max()) for a, b in zip(*found, strict=True))

    assert hinge_gradient() == 0
    assert float(learner.distance) == 0
    with torch.no_grad():
        for stack in learner.copies.trained.values():
            stack += 0.01 * torch.randn(stack.shape, generator=torch.Generator().manual_seed(0))
    assert hinge_gradient() > 0.01
    assert float(learner.distance) > 0


def test_the_loss_is_the_likelihood_of_the_first_half_and_the_hinge_of_the_second(tmp_path, monkeypatch):
    from methods.last_block_ensemble import learner as module

    made = problem()
    learner = learner_of(tmp_path, {**QUICK, "alpha": 3.0, "gamma": 0.5}, made)
    inputs, labels = made.train.inputs[:5], made.train.labels[:5]
    seen = {}

    def run(network, place, shared, stacks, batch, layout):
        seen["batch"], seen["members"] = batch, layout.sorted_members[layout.places]
        seen["examples"] = layout.sources[layout.places]
        seen["features"] = torch.arange(7.0)[:, None] / 10
        return torch.linspace(-1, 1, 21).view(7, 3), seen["features"]

    monkeypatch.setattr(module, "run_members", run)
    loss = learner.loss(inputs, labels)
    assert torch.equal(seen["batch"][:3], inputs[:3])
    assert not torch.equal(seen["batch"][3:], inputs[3:])
    assert seen["examples"].tolist() == [0, 1, 2, 3, 4, 3, 4]
    assert (seen["members"][3:5] != seen["members"][5:]).all()
    likelihood = torch.nn.functional.cross_entropy(torch.linspace(-1, 1, 21).view(7, 3)[:3], labels[:3])
    apart = distance(seen["features"][3:5], seen["features"][5:])
    assert float(loss) == pytest.approx(float(likelihood + 3 * hinge(apart, 0.5)))


def test_members_are_drawn_uniformly_and_pairs_are_distinct(tmp_path):
    learner = learner_of(tmp_path, QUICK, problem())
    layout = learner._layout(4000, 4000, torch.device("cpu"))
    members = layout.sorted_members[layout.places]
    first, second = members[4000:8000], members[8000:]
    assert (first != second).all()
    counts = torch.bincount(members[:4000], minlength=4)
    assert (counts - 1000).abs().max() < 140  # five standard deviations
    pairs = torch.bincount(first * 4 + second, minlength=16).view(4, 4)
    off = pairs[~torch.eye(4, dtype=torch.bool)]
    assert (off - 4000 / 12).abs().max() < 90


@pytest.mark.parametrize("bn", ["train", "reestimate"])
def test_stopping_after_any_step_changes_no_bit(tmp_path, bn):
    config = {**QUICK, "bn": bn, "blur": 0.5}
    whole, _ = fit(tmp_path / "whole", config)
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
    history = [(tmp_path / folder / "history.jsonl").read_bytes() for folder in ("whole", "parts")]
    assert history[0] == history[1]


def test_one_example_more_or_less_in_a_micro_batch_is_no_obstacle(tmp_path):
    config = {**QUICK, "batch_size": 19, "micro_batch": 6, "bn": "frozen", "clip_norm": 0.1}
    posterior, _ = fit(tmp_path, config, made=problem(n=37))  # batches of 19 and 18: a single clean example at the end
    assert all(tensor.isfinite().all() for tensor in tensors_of(posterior).values())


def test_decay_of_a_copy_is_a_share_of_the_prior_s(tmp_path):
    made = problem()
    still = {**QUICK, "alpha": 0.0, "l2": 10.0, "epochs": 1, "lr_mu": 1e-3, "lr_rest": 1e-3, "schedule_mu": "constant"}
    learner = learner_of(tmp_path, {**still, "nesterov": False}, made)
    weights = {**learner.points.trained, **learner.copies.trained}
    before = {name: tensor.detach().clone() for name, tensor in weights.items()}
    for leaf in learner.leaves():
        leaf.grad = torch.zeros_like(leaf)
    learner.update(0, torch.zeros(()))
    shrunk = {name: 1 - float((tensor.detach() / before[name]).median()) for name, tensor in weights.items()}
    assert shrunk["block1.conv.weight"] == pytest.approx(1e-3 * 10, rel=1e-3)
    assert shrunk["block2.conv.weight"] == pytest.approx(1e-3 * 10 / 4, rel=1e-3)
    assert shrunk["block1.linear.bias"] == shrunk["block2.norm.weight"] == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"assignment": "per_batch"}, "all copies start equal"),
        ({"components": 1}, "components"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 1}, "batch_size"),
        ({"gamma": 0}, "gamma"),
        ({"noise_low": 9.0}, r"noise_low \(9.0\) must not be above noise_high \(8.0\)"),
        ({"preset": "papr"}, "paper"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(config, message):
    with pytest.raises(ValidationError, match=message):
        LastBlockEnsemble.Config(**config)


def test_the_published_settings_are_presets():
    paper = LastBlockEnsemble.Config(preset="paper")
    assert (paper.components, paper.epochs, paper.batch_size, paper.alpha, paper.gamma) == (20, 6, 256, 1.0, 0.5)
    assert (paper.lr_mu, paper.lr_rest, paper.noise_low, paper.noise_high, paper.blur) == (1e-3, 1e-4, 0.5, 2.0, 0.03)
    face = LastBlockEnsemble.Config(preset="paper_face")
    assert (face.epochs, face.alpha, face.gamma, face.noise_low, face.noise_high, face.blur) == (4, 100, 1, 1, 2, 0)
    assert face.l2 == 5e-4


def test_a_fit_without_base_run_or_with_too_many_blocks_is_refused(tmp_path):
    ctx = Context(tmp_path, ("made_up", "small", "last_block_ensemble", 0))
    with pytest.raises(ConfigError, match="base run"):
        LastBlockEnsemble().fit(problem(), ctx, LastBlockEnsemble.Config())
    with pytest.raises(ConfigError, match="more than the 3 blocks"):
        fit(tmp_path / "blocks", {**QUICK, "blocks": 4})


def test_the_method_starts_from_map_and_names_its_posterior():
    method = LastBlockEnsemble()
    assert [need.method for need in method.needs(method.Config())] == ["map"]
    assert method.posterior_type().__name__ == "LastBlockPosterior"


def test_declaring_the_method_imports_no_torch():
    declare = "from methods.last_block_ensemble import LastBlockEnsemble as L; L.Config()"
    code = f"import sys; {declare}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

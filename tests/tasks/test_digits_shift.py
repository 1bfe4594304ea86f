"""Digits under shift: corrupted test images, figures of strokes, and what they do to a trained network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from benchmark.context import Context
from benchmark.contracts import Problem
from benchmark.errors import EnvironmentProblem
from benchmark.metrics.ood import auroc
from benchmark.weights import load_into
from methods.map import Map
from tasks import digits
from tasks.corruptions import CORRUPTIONS, SEVERITIES, STRENGTHS, corrupt
from tasks.digits import Digits, DigitsConfig
from tasks.networks.catalogue import Mlp
from tasks.strokes import stroke_figures

TASK, BOTH = Digits(), DigitsConfig(ood=("strokes", "photographs"))


@pytest.fixture(scope="module")
def log_probs(tmp_path_factory):
    """inputs -> log-probabilities of a perceptron that was trained on digits for a moment."""
    config = DigitsConfig()
    info, train, val = TASK.info(config), TASK.load(config, "train"), TASK.load(config, "val")

    def build(seed):
        torch.manual_seed(seed)
        return Mlp().build("mlp-64", info.input_shape, info.n_classes)

    with torch.random.fork_rng():
        problem = Problem(build(0), build, train, val, info.input_shape, info.n_classes, 1)
        context = Context(tmp_path_factory.mktemp("run"), ("digits", "mlp-64", "map", 0))
        load_into(problem.network, Map().fit(problem, context, Map.Config(epochs=12)).mean())
    network = problem.network.eval()
    return lambda inputs: network(inputs).detach().log_softmax(dim=1)


# -- corrupted test images ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_all_test_images_are_corrupted_between_black_and_white_and_keep_their_labels(corruption):
    clean = TASK.load(DigitsConfig(), "test")
    found = TASK.corrupted(DigitsConfig(), corruption, 2)
    expected = corrupt((clean.inputs * 6 + 5) / 16, corruption, 2)
    torch.testing.assert_close((found.inputs * 6 + 5) / 16, expected, rtol=0, atol=1e-5)
    assert torch.equal(found.labels, clean.labels)
    assert found.augment is None
    black, white = TASK.input_range(DigitsConfig())
    assert found.inputs.min() >= black - 1e-6
    assert found.inputs.max() <= white + 1e-6
    assert torch.equal(TASK.corrupted(DigitsConfig(), corruption, 2).inputs, found.inputs)


@pytest.mark.parametrize("size", [16, 32])
def test_every_image_size_shows_the_same_corrupted_scan(size):
    small, large = (TASK.corrupted(DigitsConfig(image_size=side), "noise", 4).inputs for side in (8, size))
    assert large.shape == (450, 1, size, size)
    torch.testing.assert_close(large, interpolate(small, size=size, mode="bilinear"), rtol=0, atol=1e-5)


def test_the_task_names_its_corruptions_and_reads_no_files_for_them():
    assert TASK.corruptions(DigitsConfig()) == ("shift", "rotation", "blur", "noise", "contrast")
    assert list(TASK.corruption_data(DigitsConfig())) == []
    with pytest.raises(ValueError, match=r"'blurr'.*Did you mean 'blur'\?"):
        TASK.corrupted(DigitsConfig(), "blurr", 1)
    with pytest.raises(ValueError, match="severity 6 is none of 1"):
        TASK.corrupted(DigitsConfig(), "blur", 6)


def test_another_strength_is_another_corruption_fingerprint(monkeypatch):
    before = TASK.corruption_fingerprint(DigitsConfig())
    monkeypatch.setitem(STRENGTHS, "noise", (0.1, 0.2, 0.3, 0.4, 0.5))
    assert TASK.corruption_fingerprint(DigitsConfig()) != before


def test_other_data_are_not_corrupted_but_refused(monkeypatch):
    images, labels = digits.read_scans()
    labels[0] ^= 1
    monkeypatch.setattr(digits, "read_scans", lambda: (images, labels))
    with pytest.raises(EnvironmentProblem, match="ships other data"):
        TASK.corrupted(DigitsConfig(), "blur", 1)


def test_accuracy_falls_and_the_nll_rises_with_the_severity(log_probs):
    def scores(split):
        found = log_probs(split.inputs)
        right = found.argmax(1) == split.labels
        return right.double().mean().item(), -found[torch.arange(len(split)), split.labels].double().mean().item()

    clean = scores(TASK.load(DigitsConfig(), "test"))
    table = np.array(
        [[scores(TASK.corrupted(DigitsConfig(), kind, severity)) for severity in SEVERITIES] for kind in CORRUPTIONS]
    )  # (kinds, severities, 2)
    accuracy, nll = table.mean(axis=0).T
    assert clean[0] > 0.93
    assert (np.diff([clean[0], *accuracy]) < -0.01).all(), accuracy
    assert (np.diff([clean[1], *nll]) > 0.02).all(), nll
    assert accuracy[0] > clean[0] - 0.06
    assert 0.3 < accuracy[-1] < clean[0] - 0.3
    # Every kind but contrast, the last: it only scales what a perceptron sees, and has no batch statistics to upset.
    assert (table[:-1, -1, 0] < clean[0] - 0.2).all(), table[:, -1, 0]
    assert table[-1, -1, 1] > clean[1]


# -- figures that are no digits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 16])
def test_strokes_are_normalised_as_the_test_set(size):
    config = DigitsConfig(image_size=size, ood=("strokes",))
    ((name, found),) = TASK.ood(config).items()
    assert (name, found.dtype, tuple(found.shape)) == ("strokes", torch.float32, (400, 1, size, size))
    if size == 8:
        assert np.array_equal(torch.round(found[:, 0] * 6 + 5).numpy(), stroke_figures())


def test_both_sets_are_given_on_request():
    found = TASK.ood(BOTH)
    assert list(found) == ["photographs", "strokes"]
    assert torch.equal(found["photographs"], TASK.ood(DigitsConfig())["photographs"])
    assert TASK.ood(DigitsConfig(ood=())) == {}


def test_default_sets_leave_identity_and_fingerprint_as_they_were():
    assert DigitsConfig().identity() == {"image_size": 8, "augment": "none"}
    assert DigitsConfig(ood=("photographs",)).identity() == DigitsConfig().identity()
    assert DigitsConfig(**DigitsConfig().identity()) == DigitsConfig()
    assert BOTH.identity() == {"image_size": 8, "augment": "none", "ood": ["photographs", "strokes"]}
    assert DigitsConfig(**BOTH.identity()) == BOTH


def test_the_order_of_the_sets_does_not_matter():
    assert DigitsConfig(ood=("photographs", "strokes")) == BOTH


def test_the_fingerprint_covers_the_figures_where_they_are_read(monkeypatch):
    before = {config: TASK.fingerprint(config) for config in (DigitsConfig(), BOTH)}
    assert len(set(before.values())) == 2
    monkeypatch.setattr(digits, "STROKES_SHA256", "0" * 64)
    assert TASK.fingerprint(DigitsConfig()) == before[DigitsConfig()]
    assert TASK.fingerprint(BOTH) != before[BOTH]


def test_a_trained_network_tells_most_figures_from_digits_and_not_all(log_probs):
    inside, outside = (
        -log_probs(inputs).max(dim=1).values.double().numpy()
        for inputs in (TASK.load(DigitsConfig(), "test").inputs, TASK.ood(BOTH)["strokes"])
    )
    assert 0.8 < auroc(inside, outside) < 0.99

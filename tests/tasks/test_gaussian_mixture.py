"""The Gaussian mixture: its known posterior against slow evaluation and Monte Carlo, and its reproducibility."""

from __future__ import annotations

import hashlib
import math
import time

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tasks.gaussian_mixture import GaussianMixture, GaussianMixtureConfig, cosine_modes, draw, templates

TASK = GaussianMixture()
SHAPES = [(1, 1, 1), (1, 8, 8), (3, 5, 2), (2, 1, 9), (3, 32, 32)]


def config_of(shape, **settings):
    channels, height, width = shape
    return GaussianMixtureConfig(channels=channels, height=height, width=width, **settings)


def slow_log_prob(config, x, label):
    """log p(label | x) by summing Gaussian densities with plain floats and exact summation."""

    def log_densities(of_class):
        for template in templates(config)[of_class]:
            distance = math.fsum((float(a) - float(b)) ** 2 for a, b in zip(x.flat, template.flat, strict=True))
            yield -distance / (2 * config.noise**2)

    every = [value for k in range(config.classes) for value in log_densities(k)]
    largest = max(every)
    total = math.fsum(math.exp(value - largest) for value in every)
    own = math.fsum(math.exp(value - largest) for value in log_densities(label))
    return math.log(own) - math.log(total)


@pytest.mark.parametrize("shape", SHAPES[:-1])
def test_the_true_posterior_equals_a_slow_evaluation(shape):
    config = config_of(shape, classes=4, templates_per_class=2, noise=3.0, n_test=6)
    inputs = TASK.load(config, "test").inputs
    log_probs = TASK.true_log_probs(config, inputs)
    assert log_probs.dtype == torch.float64
    expected = [[slow_log_prob(config, x, k) for k in range(4)] for x in inputs.numpy()]
    assert log_probs.numpy() == pytest.approx(np.array(expected), abs=1e-11)


def test_the_true_posterior_stays_finite_and_normalised_far_from_all_templates():
    config = GaussianMixtureConfig(noise=0.01)
    log_probs = TASK.true_log_probs(config, torch.full((2, 1, 8, 8), 1000.0))
    assert torch.isfinite(log_probs).all()
    assert log_probs.logsumexp(dim=1).abs().max() < 1e-12


@pytest.mark.parametrize("settings", [{}, {"noise": 1.5, "classes": 3, "templates_per_class": 1}])
def test_the_nll_of_the_truth_is_its_mean_entropy(settings):
    config = GaussianMixtureConfig(n_test=20_000, **settings)
    data = TASK.load(config, "test")
    log_probs = TASK.true_log_probs(config, data.inputs)
    nll = -log_probs.gather(1, data.labels[:, None])[:, 0]
    entropy = -(log_probs.exp() * log_probs).sum(dim=1)
    difference = nll - entropy  # mean zero given each input, when labels follow the posterior
    assert difference.mean().abs() < 4 * difference.std() / math.sqrt(len(data))


def test_the_true_probabilities_are_calibrated_in_every_bin():
    config = GaussianMixtureConfig(n_test=20_000)
    data = TASK.load(config, "test")
    probs = TASK.true_log_probs(config, data.inputs).exp().flatten()
    hits = torch.nn.functional.one_hot(data.labels, 10).flatten().double()
    for low in torch.arange(0, 1, 0.1):
        members = (probs >= low) & (probs < low + 0.1)
        spread = (probs * (1 - probs))[members].sum().sqrt()  # standard deviation of the number of hits
        assert (hits - probs)[members].sum().abs() < 4 * spread


def test_the_documented_bayes_accuracy_and_nll_hold():
    config = GaussianMixtureConfig(n_test=20_000)
    data = TASK.load(config, "test")
    log_probs = TASK.true_log_probs(config, data.inputs)
    accuracy = (log_probs.argmax(dim=1) == data.labels).double().mean().item()
    nll = -log_probs.gather(1, data.labels[:, None]).mean().item()
    # 4 standard errors of 20,000 draws: 0.0021 and 0.0042 each.
    assert accuracy == pytest.approx(0.902, abs=0.009)
    assert nll == pytest.approx(0.281, abs=0.017)


@pytest.mark.parametrize("shape", SHAPES)
def test_any_shape_gives_splits_of_the_announced_sizes(shape):
    config = config_of(shape, n_train=7, n_val=5, n_test=3)
    info = TASK.info(config)
    assert info.input_shape == shape
    for split, n in (("train", 7), ("val", 5), ("test", 3)):
        data = TASK.load(config, split)
        assert data.inputs.shape == (n, *shape)
        assert data.labels.shape == (n,)
    assert (info.n_train, info.n_val, info.n_test) == (7, 5, 3)


def test_no_validation_split_without_validation_examples():
    assert TASK.load(GaussianMixtureConfig(n_val=0), "val") is None


def test_inputs_are_their_templates_plus_noise_of_the_given_deviation():
    config = GaussianMixtureConfig(classes=2, templates_per_class=1, noise=0.3, n_train=2000)
    data = TASK.load(config, "train")
    residual = data.inputs.double() - torch.from_numpy(templates(config))[data.labels, 0]
    # 128,000 normal draws: relative standard error of the deviation 0.2 %, of the mean 0.3 / sqrt(128,000).
    assert residual.std().item() == pytest.approx(0.3, rel=0.008)
    assert residual.mean().abs() < 4 * 0.3 / math.sqrt(128_000)
    assert data.labels.double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(2000))


def test_cosine_modes_are_orthonormal():
    for length in (1, 3, 8, 32):
        modes = cosine_modes(length)
        assert modes @ modes.T == pytest.approx(np.eye(min(4, length)), abs=1e-12)


def test_splits_differ_and_a_smaller_split_is_a_prefix_of_a_larger():
    config = GaussianMixtureConfig()
    train, val = TASK.load(config, "train"), TASK.load(config, "val")
    assert not torch.equal(train.inputs[: len(val)], val.inputs)
    small = TASK.load(GaussianMixtureConfig(n_train=333), "train")
    assert torch.equal(small.inputs, train.inputs[:333])
    assert torch.equal(small.labels, train.labels[:333])


def test_the_arrays_are_pinned():
    # Fails when numpy's streams or the recipe change: then raise GENERATOR_VERSION and write the new digest here.
    inputs, labels = draw(GaussianMixtureConfig(), 100, 1)
    digest = hashlib.sha256(inputs.astype("<f4").tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    assert digest == "80ef03e2dd9f5caa3417c2dc6ed397544271626e0834fd5f4536dd61048578f5"


CHANGES = {
    "classes": 4,
    "templates_per_class": 2,
    "channels": 3,
    "height": 9,
    "width": 9,
    "noise": 0.5,
    "n_train": 10,
    "n_val": 10,
    "n_test": 10,
    "data_seed": 1,
}


def test_the_fingerprint_changes_with_every_setting():
    assert set(CHANGES) == set(GaussianMixtureConfig.model_fields)
    prints = {TASK.fingerprint(GaussianMixtureConfig(**{name: value})) for name, value in CHANGES.items()}
    prints.add(TASK.fingerprint(GaussianMixtureConfig()))
    assert len(prints) == len(CHANGES) + 1


def test_the_fingerprint_of_a_large_task_takes_no_time():
    start = time.perf_counter()
    TASK.fingerprint(GaussianMixtureConfig(n_train=10**9, height=1000, width=1000))
    assert time.perf_counter() - start < 0.05


@pytest.mark.parametrize("wrong", [{"noise": 0}, {"classes": 1}, {"n_train": 0}, {"noise": math.inf}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        GaussianMixtureConfig(**wrong)

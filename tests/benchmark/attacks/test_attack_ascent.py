"""Whole attacks on small trained networks."""

from __future__ import annotations

import pytest
import torch
from attack_cases import BLACK, WHITE, Noise, Scored, data, ensemble, network, trained

from benchmark.attacks.ascent import attack_examples
from benchmark.attacks.config import Attack
from benchmark.attacks.gradient import Victim, gradient, nll, pooled
from benchmark.data import Split
from benchmark.errors import PluginError
from benchmark.posteriors import PointMass
from benchmark.predict import entropies, kept_draws, own_scores, predict
from benchmark.weights import copy_of, weights_of

RANGE = (BLACK, WHITE)
SCALE = (WHITE - BLACK).view(-1, 1, 1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def nets():
    return [trained(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def point(nets):
    posterior = PointMass(weights_of(nets[0]))
    return Victim(nets[0], posterior, (posterior.weights,))


def log_probs(victim, inputs):
    with torch.no_grad():
        draws = victim.log_probs(torch.stack([victim.logits(each, inputs).double() for each in victim.draws]))
    return pooled(draws), draws


def accuracy(victim, inputs, labels):
    return float((log_probs(victim, inputs)[0].argmax(1) == labels).float().mean())


def attacked(victim, kind, split, seed=0, batch_size=128, **settings):
    attack = Attack.model_validate({"kind": kind, "epsilon": 0.1, **settings})
    return attack_examples(attack, victim, split, RANGE, generator(seed), batch_size)


def test_one_step_of_fgsm_is_epsilon_along_the_sign_of_the_gradient(point):
    split = data()
    slope = gradient(point, split.inputs, split.labels, nll)
    expected = (split.inputs + 0.1 * SCALE * slope.sign()).float()
    expected = expected.clamp(BLACK.view(-1, 1, 1), WHITE.view(-1, 1, 1))
    torch.testing.assert_close(attacked(point, "fgsm", split).inputs, expected, rtol=1e-6, atol=1e-6)


def test_fgsm_is_one_step_of_pgd_without_its_random_start(point):
    """And of the momentum method, whose first step has no momentum yet."""
    split = data()
    fgsm = attacked(point, "fgsm", split).inputs
    for kind in ("bim", "mim"):
        assert torch.equal(attacked(point, kind, split, steps=1, step_size=0.1).inputs, fgsm)
    assert not torch.equal(attacked(point, "pgd", split, steps=1, step_size=0.1).inputs, fgsm)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("kind", ["fgsm", "bim", "pgd", "mim"])
def test_every_attack_lowers_the_accuracy_within_ball_and_range(nets, kind, norm):
    victim, split = ensemble(nets), data(200)
    settings = {} if kind == "fgsm" else {"steps": 8, "step_size": 0.02}
    found = attacked(victim, kind, split, norm=norm, **settings).inputs
    clean = accuracy(victim, split.inputs, split.labels)
    assert clean > 0.9
    assert accuracy(victim, found, split.labels) < clean - 0.2
    assert bool((found >= BLACK.view(-1, 1, 1)).all() and (found <= WHITE.view(-1, 1, 1)).all())
    share = ((found - split.inputs) / SCALE).flatten(1)
    size = share.abs().amax(1) if norm == "linf" else share.norm(dim=1) / share.shape[1] ** 0.5
    assert 0.08 < float(size.max()) <= 0.1 + 1e-6


def test_steps_find_more_than_one_step_of_the_same_length(nets):
    victim, split = ensemble(nets), data(200)
    one = attacked(victim, "fgsm", split).inputs
    many = attacked(victim, "bim", split, steps=20, step_size=0.01).inputs
    labels = split.labels[:, None]
    assert log_probs(victim, many)[0].gather(1, labels).mean() < log_probs(victim, one)[0].gather(1, labels).mean()


def test_the_adaptive_attack_lowers_the_detection_score_that_the_plain_one_raises(nets, point):
    split = data(200)
    settings = {"steps": 10, "step_size": 0.02}

    def mutual_information(inputs):
        mean, draws = log_probs(ensemble(nets), inputs)
        return float((entropies(mean) - entropies(draws).mean(0)).mean())

    plain = attacked(ensemble(nets), "pgd", split, **settings)
    adaptive = attacked(ensemble(nets), "pgd", split, adaptive=True, **settings)
    assert (plain.evaded, adaptive.evaded) == (None, "mi")
    assert mutual_information(adaptive.inputs) < mutual_information(plain.inputs)

    plain, adaptive = (attacked(point, "pgd", split, adaptive=flag, **settings) for flag in (False, True))
    assert adaptive.evaded == "entropy"
    entropy = [float(entropies(log_probs(point, each.inputs)[0]).mean()) for each in (plain, adaptive)]
    assert entropy[1] < entropy[0]

    scored = Scored(weights_of(nets[0]))
    victim = Victim(nets[0], scored, (scored.weights,))
    plain, adaptive = (attacked(victim, "pgd", split, adaptive=flag, **settings) for flag in (False, True))
    assert adaptive.evaded == "own"
    scores = [
        own_scores(nets[0], scored, victim.draws, Split(each.inputs, split.labels)).mean() for each in (plain, adaptive)
    ]
    assert scores[1] < scores[0]


def test_an_attack_is_a_function_of_its_generator_and_not_of_its_batches(nets):
    victim, split = ensemble(nets), data()
    first = attacked(victim, "pgd", split, steps=26).inputs
    assert torch.equal(attacked(victim, "pgd", split, steps=26).inputs, first)
    assert not torch.equal(attacked(victim, "pgd", split, seed=1, steps=26).inputs, first)
    again = attacked(victim, "pgd", split, steps=26, batch_size=7).inputs
    # matmuls of other shapes round differently, and the sign of a gradient near 0 turns that into a step
    assert float((again - first).abs().le(1e-5).float().mean()) > 0.99


def test_only_the_first_examples_are_attacked(point):
    split = data(40)
    found = attacked(point, "bim", split, examples=10, steps=26).inputs
    assert torch.equal(found, attacked(point, "bim", split.first(10), steps=26).inputs)
    assert len(attacked(point, "fgsm", split, examples=1000).inputs) == 40


def test_draws_of_a_posterior_that_reuses_memory_are_copies():
    posterior = Noise(network())
    kept = kept_draws(posterior, 3, generator())
    expected = [copy_of(draw) for draw in posterior.draws(3, generator())]
    assert all(torch.equal(a[name], b[name]) for a, b in zip(kept, expected, strict=True) for name in a)
    assert not torch.equal(kept[0]["2.weight"], kept[2]["2.weight"])


def test_network_and_posterior_are_left_as_they_were():
    net = network().train()
    net[1].eval()  # frozen statistics
    posterior, split = Noise(net), data()
    state, centre = copy_of(net.state_dict()), copy_of(posterior.centre)
    modes = [module.training for module in net.modules()]
    victim = Victim(net, posterior, kept_draws(posterior, 3, generator()))
    before = predict(net, posterior, split, 3, generator()).log_probs
    attacked(victim, "pgd", split, adaptive=True, steps=26)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(torch.equal(value, centre[name]) for name, value in posterior.centre.items())
    assert torch.equal(predict(net, posterior, split, 3, generator()).log_probs, before)


def test_where_the_own_score_is_nan_the_example_stays_where_it_is(nets):
    class Silent(Scored):
        def score(self, network, draws, inputs):
            known = super().score(network, draws, inputs)
            return known * torch.where(torch.arange(len(inputs)) == 0, torch.nan, 1.0)

    silent, split = Silent(weights_of(nets[0])), data(5)
    victim = Victim(nets[0], silent, (silent.weights,))
    found = attacked(victim, "bim", split, adaptive=True, steps=26).inputs
    assert torch.equal(found[0], split.inputs[0])
    assert not torch.equal(found[1], split.inputs[1])


def test_a_score_must_be_one_number_per_example_and_have_a_name(nets):
    class Wrong(Scored):
        def score(self, network, draws, inputs):
            return inputs

    class Nameless(PointMass):
        def score(self, network, draws, inputs):
            return inputs.sum()

    for kind, words in ((Wrong, "expected floating point of shape"), (Nameless, "without a `score_name`")):
        posterior = kind(weights_of(nets[0]))
        with pytest.raises(PluginError, match=words):
            own_scores(nets[0], posterior, (posterior.weights,), data(2))

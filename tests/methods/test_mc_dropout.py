"""Dropout as a distribution over weights."""

import json

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from benchmark import BitReader, BitWriter, ConfigError, Context, Problem, Split, copy_of, forward, weights_of
from benchmark.errors import Interrupted
from methods.map import Map
from methods.mc_dropout import McDropout
from methods.mc_dropout.layers import choose, input_channels, layers_run
from methods.mc_dropout.masks import draw_mask, dropout_on, mask_inputs, mask_weight
from methods.mc_dropout.posterior import DropoutPosterior

Config = McDropout.Config


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def convolutional(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


def posterior_of(network, names, rate=0.3):
    channels = {name: input_channels(network.get_submodule(name)) for name in names}
    return DropoutPosterior(weights_of(network), channels, rate)


def problem(build=convolutional, n=24):
    def split(size, seed):
        labels = torch.randint(0, 3, (size,), generator=generator(seed))
        inputs = torch.randn(size, 1, 2, 2, generator=generator(seed + 1)) + labels.view(-1, 1, 1, 1)
        return Split(inputs, labels)

    return Problem(build(0), build, split(n, 0), split(12, 7), (1, 2, 2), 3, draws=20)


# --- dropping inputs and masking weights are one thing -----------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(5, 3), (7, 5)),
        (nn.Linear(5, 3), (7, 4, 5)),
        (nn.Linear(5, 3), (7, 2, 2, 5)),
        (nn.Conv2d(4, 6, 3, padding=1), (7, 4, 5, 5)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (7, 4, 5, 5)),
        (nn.Conv2d(4, 4, 3, groups=4, bias=False), (7, 4, 5, 5)),
    ],
)
def test_a_mask_on_the_inputs_is_the_same_mask_on_the_weight(layer, shape):
    layer = layer.double()
    inputs = torch.randn(shape, generator=generator(1), dtype=torch.float64)
    channels = input_channels(layer)
    for seed in range(5):
        mask = draw_mask((channels,), 0.4, generator(seed)).double()
        on_inputs = layer(mask_inputs(layer, inputs, mask.expand(len(inputs), -1)))
        on_weight = forward(layer, {**weights_of(layer), "weight": mask_weight(layer.weight, mask)}, inputs)
        assert torch.allclose(on_inputs, on_weight, atol=1e-12)  # float64 sums in another order


def test_a_mask_drops_whole_channels_of_a_convolution():
    layer = nn.Conv2d(3, 2, 1, bias=False)
    masked = mask_inputs(layer, torch.ones(2, 3, 4, 4), torch.tensor([[0.0, 2, 2], [2, 0, 0]]))
    assert torch.equal(masked[0, :, 1, 3], torch.tensor([0.0, 2, 2]))
    assert torch.equal(masked[1, :, 0, 0], torch.tensor([2.0, 0, 0]))


def test_draws_have_the_law_of_dropout_layers_on_a_single_input():
    """Every mask of a two-layer network, weighted by its probability, against the frequencies of draws and of hooks."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
    rate, n, x = 0.3, 4000, torch.tensor([[0.7, -1.1]])
    exact = {}
    for bits in range(16):
        z = torch.tensor([(bits >> i) & 1 for i in range(4)])
        scaled = z / (1 - rate)
        with torch.no_grad():
            y = network[2](network[1](network[0](x * scaled[:2])) * scaled[2:]).item()
        key = round(y, 4)
        exact[key] = exact.get(key, 0) + float(((1 - rate) ** z * rate ** (1 - z)).prod())

    posterior = posterior_of(network, ["0", "2"], rate)
    with torch.no_grad():
        drawn = [round(forward(network, w, x).item(), 4) for w in posterior.draws(n, generator(1))]
        network.train()
        with dropout_on(network, ["0", "2"], rate, generator(2)):
            hooked = [round(y, 4) for y in network(x.expand(n, -1)).squeeze(1).tolist()]
    for values in (drawn, hooked):
        assert set(values) <= set(exact)
        for key, probability in exact.items():
            # five standard errors of a frequency over n draws
            allowed = 5 * (probability * (1 - probability) / n) ** 0.5
            assert values.count(key) / n == pytest.approx(probability, abs=allowed)


def test_moments_of_draws_are_those_of_scaled_bernoulli_masks():
    network, rate, n = convolutional(), 0.3, 3000
    posterior = posterior_of(network, ["2", "5"], rate)
    samples = [{name: w[name].clone() for name in ("2.weight", "5.weight")} for w in posterior.draws(n, generator())]
    for name in ("2.weight", "5.weight"):
        m = network.get_parameter(name).detach()
        stacked = torch.stack([sample[name] for sample in samples])
        sd = m.abs() * (rate / (1 - rate)) ** 0.5
        assert ((stacked.mean(0) - m).abs() <= 5 * sd / n**0.5 + 1e-6).all()
        # The sample variance of a two-point law: five standard errors are below 10 % at n = 3000 and p = 0.3.
        assert torch.allclose(stacked.var(0), sd**2, rtol=0.1)


def test_one_mask_serves_all_outputs_of_a_channel_and_all_of_its_positions():
    posterior = posterior_of(convolutional(), ["2"])
    sample = next(posterior.draws(1, generator(3)))["2.weight"]
    ratio = sample / posterior.means["2.weight"]  # (6, 2, 3, 3): two groups of three outputs
    for group in ratio.view(2, 3, 2, 3, 3):
        for channel in range(2):
            assert len(set(group[:, channel].round(decimals=4).flatten().tolist())) == 1


def test_only_named_weights_are_random_and_the_mean_is_untouched():
    network = convolutional()
    posterior = posterior_of(network, ["5"], rate=0.9)
    means = copy_of(posterior.mean())
    for sample in posterior.draws(3, generator()):
        assert sample.keys() == means.keys()
        assert all(torch.equal(sample[name], means[name]) for name in means if name != "5.weight")
        assert not torch.equal(sample["5.weight"], means["5.weight"])
    assert all(torch.equal(posterior.mean()[name], means[name]) for name in means)
    assert posterior.support is None


def test_five_draws_are_the_first_of_twenty():
    posterior = posterior_of(convolutional(), ["2", "5"])
    few = [copy_of(w) for w in posterior.draws(5, generator(4))]
    many = [copy_of(w) for w in posterior.draws(20, generator(4))]
    assert all(torch.equal(a[name], b[name]) for a, b in zip(few, many, strict=False) for name in a)
    assert not torch.equal(many[0]["5.weight"], many[1]["5.weight"])


# --- layers --------------------------------------------------------------------------------------------------------


def test_layers_are_listed_in_the_order_in_which_they_run():
    class Reversed(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(4, 3)
            self.first = nn.Linear(4, 4)

        def forward(self, x):
            return self.last(self.first(x.flatten(1)))

    assert layers_run(Reversed(), torch.zeros(1, 1, 2, 2)) == ["first", "last"]


def test_layers_whose_weight_is_not_one_matrix_of_one_call_are_left_out():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.twice = nn.Linear(4, 4)
            self.tied_a, self.tied_b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.tied_b.weight = self.tied_a.weight
            self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
            self.unused = nn.Linear(4, 4)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            x = x.view(len(x), 1, 4)
            x = self.attention(x, x, x, need_weights=False)[0]
            x = self.normed(self.tied_b(self.tied_a(self.twice(self.twice(x)))))
            return self.head(x[:, 0])

    assert layers_run(Odd(), torch.zeros(1, 1, 2, 2)) == ["head"]


def test_looking_for_layers_leaves_modes_hooks_and_random_numbers_alone():
    network = convolutional()
    network[1].eval()
    state = torch.get_rng_state()
    layers_run(network, torch.zeros(1, 1, 2, 2))
    assert [module.training for module in network] == [True, False, True, True, True, True]
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("where", "chosen"),
    [("all", "abcde"), ("all_but_first", "bcde"), ("last_half", "de"), ("head", "e")],
)
def test_where_counts_layers_from_the_input(where, chosen):
    assert choose(list("abcde"), where) == list(chosen)


@pytest.mark.parametrize("where", ["all_but_first", "last_half"])
def test_a_single_layer_is_no_place_for_a_part_of_the_layers(where):
    assert choose(["only"], "all") == choose(["only"], "head") == ["only"]
    with pytest.raises(ConfigError, match=rf"'where: {where}' selects no layer.*\n  legal: all, "):
        choose(["only"], where)


# --- training ------------------------------------------------------------------------------------------------------


def test_hooks_act_in_training_mode_only_and_are_removed():
    network, x = convolutional(), torch.randn(6, 1, 2, 2)
    plain = network(x)
    with dropout_on(network, ["2", "5"], 0.5, generator()):
        assert not torch.equal(network(x), plain)
        network.eval()
        assert torch.equal(network(x), plain)
        network.train()
    assert torch.equal(network(x), plain)


def test_hooks_are_removed_when_training_fails():
    network = convolutional()
    with pytest.raises(RuntimeError), dropout_on(network, ["2", "5"], 0.5, generator()):
        network(torch.randn(6, 9, 2, 2))
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_training_masks_differ_between_examples():
    layer = nn.Sequential(nn.Linear(50, 1, bias=False))
    with dropout_on(layer, ["0"], 0.5, generator()):
        outputs = layer(torch.ones(8, 50))
    assert len(set(outputs.squeeze(1).tolist())) == 8


def context(folder, **changes):
    return Context(folder, ("task", "net", "mc_dropout", 0), **changes)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_equal_seeds_give_equal_bits_and_the_problem_keeps_its_network(tmp_path):
    task, config = problem(), Config(epochs=2, batch_size=8, where="all_but_first")
    before = copy_of(weights_of(task.network))
    first = McDropout().fit(task, context(tmp_path / "a"), config)
    second = McDropout().fit(task, context(tmp_path / "b"), config)
    assert same(first.means, second.means)
    assert same(before, weights_of(task.network))
    assert not any(module._forward_pre_hooks for module in task.network.modules())
    assert list(first.channels.items()) == [("2", 4), ("5", 24)]
    assert first.facts()["dropped_layers"] == 2
    assert first.facts()["dropped_weights"] == 6 * 2 * 9 + 24 * 3


def test_dropout_changes_what_map_learns(tmp_path):
    settings = {"epochs": 2, "batch_size": 8, "select": "last"}
    dropped = McDropout().fit(problem(), context(tmp_path / "a"), Config(**settings, rate=0.5))
    plain = Map().fit(problem(), context(tmp_path / "b"), Map.Config(**settings))
    assert not same(dropped.means, dict(plain.weights))


def test_interrupted_at_any_offer_and_resumed_equals_uninterrupted(tmp_path):
    task, config = problem(), Config(epochs=2, batch_size=8, rate=0.3, where="all")
    whole = McDropout().fit(task, context(tmp_path / "whole"), config)
    for stop_at in range(1, 7):  # 24 examples in batches of 8, two epochs: six steps
        offers = iter(range(1, 100))
        stopped = context(
            tmp_path / str(stop_at),
            stop_requested=lambda at=stop_at, it=offers: next(it) == at,
            checkpoint_seconds=0,
        )
        with pytest.raises(Interrupted):
            McDropout().fit(task, stopped, config)
        stopped.close()
        resumed = McDropout().fit(task, context(tmp_path / str(stop_at)), config)
        assert same(whole.means, resumed.means), f"stopped at offer {stop_at}"
        assert whole.facts() == resumed.facts()


def test_bytes_hold_weights_rate_and_layers_exactly(tmp_path):
    posterior = McDropout().fit(problem(), context(tmp_path), Config(epochs=1, rate=0.1, where="all_but_first"))
    out = BitWriter()
    posterior.encode(out)
    src = BitReader(out.finish())
    back = McDropout().posterior_type().decode(src, convolutional(5))
    src.finish()
    assert same(posterior.means, back.means)
    assert back.rate == 0.1
    assert list(back.channels.items()) == list(posterior.channels.items())
    for a, b in zip(posterior.draws(3, generator(8)), back.draws(3, generator(8)), strict=True):
        assert same(dict(a), dict(b))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0}, "greater than 0"),
        ({"rate": 1}, "less than 1"),
        ({"where": "tail"}, "'all', 'all_but_first', 'last_half' or 'head'"),
        ({"member": 1}, "Extra inputs"),
        ({"preset": "nothing"}, "legal: deit, mlp_mnist, recommended, resnet_cifar, resnet_imagenet, wrn"),
    ],
)
def test_settings_out_of_bounds_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Config(**settings)


def test_the_recipe_is_that_of_map():
    shared = json.loads(json.dumps(Config().identity()))
    assert {**shared, "member": 0} == {**Map.Config().identity(), "rate": shared["rate"], "where": shared["where"]}
    assert Config(preset="wrn").epochs == 200
    assert McDropout().needs(Config()) == ()

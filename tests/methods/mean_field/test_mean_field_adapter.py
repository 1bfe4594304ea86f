"""The posterior around any network, in a training loop of one's own."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import timm
import torch
from mean_field_cases import SmallConvNet, network
from small_problems import split
from torch import nn
from torch.nn.functional import cross_entropy

from benchmark import BitReader, BitWriter, ConfigError
from methods.finetuning.config import NamePatterns
from methods.mean_field import adapter
from methods.mean_field.adapter import BayesianNetwork
from methods.mean_field.config import Constant, RelativeAbs, RelativeRms, UniformLog
from methods.mean_field.posterior import GaussianPosterior

SETTINGS = {"l2": 5e-4, "n_data": 60}


@pytest.mark.parametrize("estimator", ["shared", "exemplar", "flipout", "local"])
def test_a_loop_of_one_s_own_trains_and_the_network_keeps_its_weights(estimator):
    net, data = network(), split(60)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    bayes = BayesianNetwork(net, estimator=estimator, **SETTINGS)
    means = torch.optim.SGD([*bayes.mean.parameters(), *bayes.points.parameters()], lr=0.05, momentum=0.9)
    log_sds = torch.optim.Adam(bayes.log_sd.parameters(), lr=1e-2, eps=1e-12)
    start = {name: value.detach().clone() for name, value in bayes.state_dict().items()}
    losses = []
    for _ in range(30):
        loss = cross_entropy(bayes(data.inputs), data.labels)
        loss.backward()
        losses.append(float(loss.detach()))
        bayes.add_prior_gradients()
        for optimiser in (means, log_sds):
            optimiser.step()
            optimiser.zero_grad()
    assert sum(losses[-5:]) < sum(losses[:5])
    assert all(not torch.equal(start[name], value) for name, value in bayes.state_dict().items())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_the_gradients_of_the_prior_are_those_of_the_divergence():
    for centre in ("zero", "pretrained"):
        settings = {"l2": 1e-2, "n_data": 60, "kl_temperature": 0.3, "sigma_init": Constant(value=0.2)}
        bayes = BayesianNetwork(network().double(), prior_mean=centre, **settings)
        with torch.no_grad():
            for parameter in bayes.mean.parameters():
                parameter.mul_(1.1)
        bayes.add_prior_gradients()
        by_hand = [parameter.grad.clone() for part in (bayes.mean, bayes.log_sd) for parameter in part.parameters()]
        bayes.zero_grad()
        (0.3 * bayes.kl() / 60).backward()
        found = [parameter.grad for part in (bayes.mean, bayes.log_sd) for parameter in part.parameters()]
        assert all((a - b).abs().max() < 1e-12 for a, b in zip(by_hand, found, strict=True))
        flat = bayes.posterior()
        assert float(bayes.kl().detach()) > 0
        assert set(flat.log_sd) == {"conv.weight", "head.weight"}


@pytest.mark.parametrize("sigma_init", [RelativeRms(value=0.1), RelativeAbs()])
def test_a_network_in_channels_last_trains_like_a_contiguous_one(sigma_init):
    inputs, gradients = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)), []
    for layout in (torch.contiguous_format, torch.channels_last):
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 3), nn.Flatten()).to(memory_format=layout)
        with torch.no_grad():
            for index, parameter in enumerate(net.parameters()):
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view(parameter.shape) * (index + 1))
        bayes = BayesianNetwork(net, l2=1e-2, n_data=50, sigma_init=sigma_init)
        bayes(inputs).square().sum().backward()
        bayes.add_prior_gradients()
        gradients.append([parameter.grad for parameter in (*bayes.mean.parameters(), *bayes.log_sd.parameters())])
    for contiguous, channels_last in zip(*gradients, strict=True):
        assert torch.allclose(contiguous, channels_last, rtol=1e-4, atol=1e-3)


def test_without_noise_and_in_eval_mode_it_is_the_network():
    net, data = network(), split(20)
    bayes = BayesianNetwork(net, **SETTINGS).eval()
    plain = net(data.inputs)
    noisy = bayes(data.inputs)
    assert not torch.allclose(noisy, plain, atol=1e-3)
    assert not torch.equal(noisy, bayes(data.inputs))
    bayes.freeze()
    assert torch.equal(bayes(data.inputs), plain)
    bayes.unfreeze(r"head\..*")
    assert not torch.equal(bayes(data.inputs), plain)
    with pytest.raises(ConfigError, match=r"'haed\.weight' matches no parameter.*head\.weight"):
        bayes.freeze("haed.weight")


def test_dropout_is_off_and_statistics_follow_in_train_mode_only():
    net, data = SmallConvNet().train(), split(40)
    bayes = BayesianNetwork(net, sigma_init=Constant(value=1e-7), **SETTINGS)
    start = bayes.statistics.norm.running_mean.clone()
    assert torch.allclose(bayes(data.inputs), bayes(data.inputs), atol=1e-4)  # a mask would differ
    assert not torch.equal(bayes.statistics.norm.running_mean, start)
    assert torch.equal(net.norm.running_mean, torch.zeros(8))
    bayes.eval()
    start = bayes.statistics.norm.running_mean.clone()
    bayes(data.inputs)
    assert torch.equal(bayes.statistics.norm.running_mean, start)
    assert net.training
    assert net.dropout.training


def test_there_and_back_through_a_posterior_and_its_bytes():
    net, data = network(), split(20)
    bayes = BayesianNetwork(net, sigma_init=UniformLog(low=-3, high=-2), **SETTINGS)
    bayes(data.inputs)
    posterior = bayes.posterior()
    posterior.encoding = "raw"
    out = BitWriter()
    posterior.encode(out)
    decoded = GaussianPosterior.decode(BitReader(out.finish()), net)
    again = BayesianNetwork.from_posterior(net, decoded, **SETTINGS)
    floats = {name: value for name, value in bayes.state_dict().items() if value.is_floating_point()}
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in floats.items())
    a, b = (each.predict(data.inputs, draws=3).log_probs for each in (bayes, again))
    assert torch.equal(a, b)
    plain = bayes.deterministic().eval()
    bayes.freeze()
    assert torch.equal(plain(data.inputs), bayes.eval()(data.inputs))
    assert torch.equal(plain.norm.running_mean, bayes.statistics.norm.running_mean)


def test_a_prediction_is_the_average_of_draws_and_does_not_depend_on_the_batch():
    bayes, data = BayesianNetwork(network(), **SETTINGS), split(30)
    found = bayes.predict(data.inputs, draws=4, batch_size=7)
    assert torch.allclose(found.log_probs, bayes.predict(data.inputs, draws=4).log_probs, atol=1e-6)
    assert found.draws == 4
    assert torch.allclose(found.log_probs.exp().sum(1), torch.ones(30), atol=1e-5)
    draws = bayes.posterior().draws(4, torch.Generator().manual_seed(0))
    weights = [copy.deepcopy(dict(draw)) for draw in draws]
    net = network().eval()
    each = torch.stack([torch.func.functional_call(net, w, (data.inputs,)).softmax(-1) for w in weights])
    assert torch.allclose(found.log_probs.exp(), each.mean(0), atol=1e-5)


@pytest.mark.parametrize("estimator", ["shared", "exemplar"])
def test_vision_transformers_work_untouched_and_draws_agree_with_vmap(estimator):
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=2, drop_path_rate=0.5)
    bayes = BayesianNetwork(net, which="all", estimator=estimator, sigma_init=RelativeRms(value=0.3), **SETTINGS)
    x = torch.randn(4, 3, 32, 32)
    cross_entropy(bayes(x), torch.arange(4) % 3).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in bayes.log_sd.parameters())
    draws = [{k: v.clone() for k, v in w.items()} for w in bayes.posterior().draws(3, torch.Generator().manual_seed(1))]
    net.eval()
    stacked = {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}
    together = torch.vmap(lambda weights: torch.func.functional_call(net, weights, (x,)))(stacked)
    loop = torch.stack([torch.func.functional_call(net, weights, (x,)) for weights in draws])
    assert (together - loop).abs().max() < 1e-5


def test_state_goes_through_a_dict_and_another_network_is_refused():
    one, two = (BayesianNetwork(network(seed), **SETTINGS) for seed in (0, 1))
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    with pytest.raises(RuntimeError, match="size mismatch"):
        BayesianNetwork(SmallConvNet(5), **SETTINGS).load_state_dict(one.state_dict())
    with pytest.raises(ConfigError, match="shape"):
        BayesianNetwork.from_posterior(SmallConvNet(5), one.posterior(), **SETTINGS)


def test_the_report_names_what_is_bayesian_and_what_is_not():
    net = network()
    net.norm.bias.requires_grad_(False)
    report = BayesianNetwork(net, **SETTINGS).report().splitlines()
    assert report[0] == "Bayesian: 2 tensors, 96 weights"
    assert "  conv.weight (8, 1, 3, 3)" in report
    assert "trained as points: 2 tensors, 11 weights" in report
    assert report[-2:] == ["not trained: 1 tensors, 8 weights", "  norm.bias (8,)"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"l2": 0.0}, "l2 is 0.0"),
        ({"l2": math.nan}, "l2 is nan"),
        ({"n_data": 0}, "n_data is 0"),
        ({"estimator": "exemplary"}, "legal: shared, exemplar, flipout, local"),
        ({"sigma_init": RelativeRms()}, "needs a value"),
        ({"which": NamePatterns(include=("haed.*",))}, "matches no parameter"),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        BayesianNetwork(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), **{**SETTINGS, **change})


def test_the_loop_of_the_documentation_runs():
    text = (Path(adapter.__file__).parent / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    data = split(40)
    names = {"torch": torch, "loader": [(data.inputs, data.labels)], "test_inputs": data.inputs}
    names["network"] = _Blocks()
    exec(compile(code, "README.md", "exec"), names)
    assert names["predictive"].log_probs.shape == (40, 3)
    assert torch.isfinite(names["plain"](data.inputs)).all()
    assert len(list(names["posterior"].draws(2, torch.Generator()))) == 2


class _Blocks(nn.Module):
    """A network with a block of the name that the documentation freezes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer4 = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU())
        self.fc = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer4(x))

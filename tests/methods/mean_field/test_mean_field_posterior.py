"""The Gaussian as a distribution to draw from, and as bytes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mean_field_cases import double, network, oracle
from scipy.special import log_ndtr
from small_problems import split
from torch import nn

from benchmark import BitReader, BitWriter, CorruptBitstream, Pool, copy_of, weights_of
from benchmark.predict import predict
from methods.mean_field.encoding import LOWEST_PSI, Grid, dequantise, quantise
from methods.mean_field.posterior import GaussianPosterior


def posterior_on(net: nn.Module, *, log_sd: float = -2.0, encoding: str = "sigma_aware") -> GaussianPosterior:
    own = weights_of(net)
    mean = {name: own[name] for name in ("conv.weight", "head.weight")}
    generator = torch.Generator().manual_seed(0)
    psi = {name: log_sd + 0.3 * torch.randn(tensor.shape, generator=generator) for name, tensor in mean.items()}
    return GaussianPosterior(
        mean,
        psi,
        {name: own[name] for name in own if name not in mean},
        encoding=encoding,
        facts={"estimator": "shared"},
    )


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def through_bytes(posterior: GaussianPosterior, net: nn.Module) -> tuple[GaussianPosterior, BitReader]:
    out = BitWriter()
    posterior.encode(out)
    src = BitReader(out.finish())
    decoded = GaussianPosterior.decode(src, net)
    src.finish()
    return decoded, src


def test_few_draws_are_the_first_of_many_and_the_generator_decides():
    posterior = posterior_on(network())
    few = [copy_of(weights) for weights in posterior.draws(5, seeded())]
    many = [copy_of(weights) for weights in posterior.draws(20, seeded())]
    for a, b in zip(few, many, strict=False):
        assert all(torch.equal(a[name], b[name]) for name in a)
    other = next(iter(posterior.draws(1, seeded(8))))
    assert not torch.equal(other["head.weight"], few[0]["head.weight"])
    assert not torch.equal(many[0]["head.weight"], many[1]["head.weight"])


def test_draws_take_one_number_from_the_generator_whatever_their_count():
    states = []
    for n in (1, 9):
        generator = seeded()
        list(posterior_on(network()).draws(n, generator))
        states.append(generator.get_state())
    assert torch.equal(*states)


def test_predictions_do_not_depend_on_the_batch_size():
    net, data = network(), split(50)
    posterior = posterior_on(net)
    single, whole = (predict(net, posterior, data, 6, seeded(), batch_size=size) for size in (1, 128))
    assert torch.allclose(single.log_probs, whole.log_probs, atol=1e-5)  # kernels differ, draws do not


def test_draws_have_the_mean_and_the_deviation_of_the_gaussian_and_share_the_rest():
    net = network()
    posterior = posterior_on(net)
    generator = seeded()
    first = next(iter(posterior.draws(1, seeded())))
    samples = torch.stack([weights["head.weight"].clone() for weights in posterior.draws(20_000, generator)])
    sigma = posterior.log_sd["head.weight"].exp()
    away = (samples.mean(0) - posterior.mean()["head.weight"]) / sigma
    assert away.abs().max() < 4.5 / math.sqrt(20_000)  # 24 weights, 4.5 standard errors
    assert (samples.std(0) / sigma - 1).abs().max() < 4.5 / math.sqrt(2 * 20_000)
    assert set(first) == set(weights_of(net))
    assert all(torch.equal(first[name], weights_of(net)[name]) for name in first if name not in posterior.log_sd)


@pytest.mark.parametrize("case", oracle("posterior_predictive"), ids=lambda case: case["id"])
def test_pooling_draws_gives_the_oracle_s_predictive(case):
    pool = Pool()
    for logits in case["inputs"]["logits"]:
        pool.add(double(logits).log_softmax(-1))
    found = pool.result()
    expected = case["expected"]
    target = torch.tensor(case["inputs"]["target"])
    log_probs = found.log_probs.double()
    assert torch.allclose(log_probs.exp(), double(expected["mean_prob"]), atol=1e-6)
    nll = -float(log_probs[torch.arange(len(target)), target].mean())
    assert nll == pytest.approx(expected["nll"], rel=1e-6)
    assert torch.allclose(found.expected_entropy.double(), double(expected["expected_entropy"]), atol=1e-6)


@pytest.mark.parametrize("case", oracle("sigma_aware_quantisation"), ids=lambda case: case["id"])
def test_grids_and_ideal_lengths_equal_the_oracle(case):
    given_, expected = case["inputs"], case["expected"]
    steps = {"mu_step": given_["mu_step"], "psi_step": given_["psi_step"]}
    grid = quantise(double(given_["mu"]), double(given_["psi"]), **steps)
    assert grid.psi.tolist() == expected["index_psi"]
    assert grid.mu.tolist() == expected["index_mu"]
    mu, psi = dequantise(grid, **steps)
    assert (mu - double(expected["mu"])).abs().max() < 1e-9
    assert (psi - double(expected["psi"])).abs().max() < 1e-9
    widths = given_["mu_step"] * np.exp(np.asarray(expected["psi"])) / given_["tau"]
    assert ideal_bits(grid.mu, widths) == pytest.approx(expected["bits_mu"], abs=1e-9)


def ideal_bits(indices: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """-log2 of the mass of a standard normal in cells of `widths`, from the tail's side of zero."""
    near, far = (np.abs(indices) - 0.5) * widths, (np.abs(indices) + 0.5) * widths
    upper = log_ndtr(-near)  # P(x > near)
    return -(upper + np.log1p(-np.exp(log_ndtr(-far) - upper))) / math.log(2)


@given(values=st.lists(st.tuples(st.floats(-100, 100, width=32), st.floats(-30, 3, width=32)), min_size=1, max_size=30))
def test_quantising_moves_a_mean_by_at_most_an_eighth_of_sigma(values):
    mu, psi = (double(list(column)) for column in zip(*values, strict=True))
    decoded_mu, decoded_psi = dequantise(quantise(mu, psi))
    assert (decoded_psi - psi.clamp(min=LOWEST_PSI)).abs().max() <= 0.125
    assert ((decoded_mu - mu).abs() <= 0.125 * decoded_psi.exp() * (1 + 1e-6)).all()
    again = quantise(decoded_mu, decoded_psi)
    assert isinstance(again, Grid)
    assert np.array_equal(again.psi, quantise(mu, psi).psi)
    assert np.array_equal(again.mu, quantise(mu, psi).mu)  # decoding is a fixed point


def test_raw_bytes_are_exact():
    net = network()
    posterior = posterior_on(net, encoding="raw")
    decoded, src = through_bytes(posterior, network(1))
    assert src.codec == decoded.encoding == "raw"
    for a, b in ((posterior.mean(), decoded.mean()), (posterior.log_sd, decoded.log_sd)):
        assert list(a) == list(b) or set(a) == set(b)
        assert all(torch.equal(a[name], b[name]) for name in a)
    a, b = (copy_of(next(iter(p.draws(1, seeded())))) for p in (posterior, decoded))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_sigma_aware_bytes_hold_the_grid_points_and_the_exact_rest():
    net = network()
    posterior = posterior_on(net)
    decoded, src = through_bytes(posterior, network(1))
    assert src.codec == "sigma_aware"
    for name, psi in posterior.log_sd.items():
        mu = posterior.mean()[name]
        expected_mu, expected_psi = dequantise(quantise(mu.reshape(-1), psi.reshape(-1)))
        assert torch.equal(decoded.mean()[name].reshape(-1), expected_mu.float())
        assert torch.equal(decoded.log_sd[name].reshape(-1), expected_psi.float())
    rest = set(weights_of(net)) - set(posterior.log_sd)
    assert all(torch.equal(decoded.mean()[name], posterior.mean()[name]) for name in rest)
    assert through_bytes(decoded, net)[1].sections() == src.sections()


def test_size_is_within_two_percent_of_the_ideal_length():
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(300, 300, bias=False), nn.Linear(300, 300, bias=False))
    mean = {name: value.detach() for name, value in net.named_parameters()}
    rms = {name: float(value.square().mean().sqrt()) for name, value in mean.items()}
    # Trained deviations: a common scale per tensor and a spread of half a nat.
    psi = {
        name: math.log(0.3 * rms[name]) + 0.5 * torch.randn(value.shape, generator=generator)
        for name, value in mean.items()
    }
    mean = {name: rms[name] * torch.randn(value.shape, generator=generator) for name, value in mean.items()}
    out = BitWriter()
    GaussianPosterior(mean, psi, {}).encode(out)
    ideal = 0.0
    for name, mu in mean.items():
        grid = quantise(mu.reshape(-1), psi[name].reshape(-1))
        steps = 0.25 * np.exp(0.25 * grid.psi.astype(float))
        ideal += ideal_bits(grid.mu, steps / float(mu.square().mean().sqrt())).sum()
        counts = np.unique(grid.psi, return_counts=True)[1]
        ideal += -(counts * np.log2(counts / counts.sum())).sum()
    assert len(out.finish()) * 8 < 1.02 * ideal
    assert 5 < ideal / 180_000 < 9  # bits per weight


def test_one_common_sigma_costs_a_few_bytes_per_tensor():
    net = network()
    own = weights_of(net)
    mean = {"head.weight": own.pop("head.weight")}
    posterior = GaussianPosterior(mean, {"head.weight": torch.full((3, 8), -2.6)}, own)
    assert through_bytes(posterior, net)[1].sections()["psi.0"] < 16


def test_bytes_of_another_architecture_are_refused():
    out = BitWriter()
    posterior_on(network()).encode(out)
    from mean_field_cases import SmallConvNet

    with pytest.raises(CorruptBitstream, match="another architecture"):
        GaussianPosterior.decode(BitReader(out.finish()), SmallConvNet(classes=4))


def test_a_gaussian_needs_matching_names_and_shapes():
    w = torch.zeros(2)
    for mean, log_sd in (({}, {}), ({"a": w}, {"b": w}), ({"a": w}, {"a": torch.zeros(3)})):
        with pytest.raises(ValueError, match="same names and shapes"):
            GaussianPosterior(mean, log_sd, {})

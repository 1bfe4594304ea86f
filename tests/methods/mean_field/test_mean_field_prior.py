"""The prior's gradients by hand, and the KL divergence."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mean_field_cases import double, oracle

from methods.finetuning.flat import CHUNK, Flat
from methods.mean_field.prior import Prior, kl_weight, layer_scales
from methods.mean_field.rates import ramp


def prior_of(inputs: dict) -> Prior:
    centre = double(inputs["m0"])
    return Prior(inputs["lam"], inputs["N"], inputs.get("t", 1.0), {"w": centre} if centre.dim() else None)


@pytest.mark.parametrize("case", oracle("prior_gradient"), ids=lambda case: case["id"])
def test_prior_gradients_equal_the_oracle(case):
    given_, expected = case["inputs"], case["expected"]
    prior = prior_of(given_)
    g_mu, g_psi = double(given_["g_mu"]), double(given_["g_psi"])
    prior.add_mean_gradient([g_mu], {"w": double(given_["mu"])})
    prior.add_log_sd_gradient(g_psi.view(-1), double(given_["psi"]).view(-1))
    assert (g_mu - double(expected["g_mu"])).abs().max() < 1e-9
    assert (g_psi - double(expected["g_psi"])).abs().max() < 1e-9
    assert prior.log_sd == pytest.approx(expected["psi_equilibrium"], abs=1e-9)
    assert math.exp(2 * prior.log_sd) == pytest.approx(expected["prior_var"], abs=1e-9)


@pytest.mark.parametrize("case", oracle("kl_value"), ids=lambda case: case["id"])
def test_kl_equals_the_oracle_per_weight_and_in_sum(case):
    given_, expected = case["inputs"], case["expected"]
    prior = prior_of(given_)
    mu, psi = Flat.copy_of({"w": double(given_["mu"])}), Flat.copy_of({"w": double(given_["psi"])})
    assert prior.kl_over_n(mu, psi)[0] == pytest.approx(expected["kl_over_N"], abs=1e-9)
    for j, kl in enumerate(expected["kl_per_weight"]):
        one = Prior(prior.lam, prior.n_data, 1.0, {"w": prior.mean["w"][j : j + 1]} if prior.mean else None)
        mu_j, psi_j = (Flat.copy_of({"w": flat.flat[j : j + 1]}) for flat in (mu, psi))
        assert one.kl_over_n(mu_j, psi_j)[0] * prior.n_data == pytest.approx(kl, abs=1e-9)


@pytest.mark.parametrize("case", oracle("kl_population"), ids=lambda case: case["id"])
def test_kl_of_a_population_of_deviations_approaches_its_expectation(case):
    given_ = case["inputs"]
    n = 2 * CHUNK + 17  # several chunks, the last one partial
    psi = torch.linspace(given_["lo"], given_["hi"], n, dtype=torch.float64)
    mu = Flat.copy_of({"w": torch.zeros(n, dtype=torch.float64)})
    found = Prior(given_["lam"], given_["N"]).kl_over_n(mu, Flat.copy_of({"w": psi}))[0]
    # Even spacing integrates the uniform law to 1/n.
    assert found * given_["n"] / n == pytest.approx(case["expected"]["kl_over_N"], rel=1e-6)


@given(
    lam=st.floats(1e-6, 1.0),
    n_data=st.integers(1, 10**6),
    temperature=st.floats(0.01, 10),
    pretrained=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_gradients_by_hand_equal_those_of_the_kl_by_autograd(lam, n_data, temperature, pretrained, seed):
    generator = torch.Generator().manual_seed(seed)
    mu = torch.randn(7, dtype=torch.float64, generator=generator).requires_grad_()
    psi = torch.randn(7, dtype=torch.float64, generator=generator).sub(2).requires_grad_()
    centre = torch.randn(7, dtype=torch.float64, generator=generator) if pretrained else torch.zeros(7)
    variance = 1 / (lam * n_data)
    kl = ((mu - centre) ** 2 + (2 * psi).exp()) / (2 * variance) - 0.5 - psi + math.log(variance) / 2
    (temperature * kl.sum() / n_data).backward()
    prior = Prior(lam, n_data, temperature, {"w": centre} if pretrained else None)
    g_mu, g_psi = torch.zeros(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
    with torch.no_grad():
        prior.add_mean_gradient([g_mu], {"w": mu})
        prior.add_log_sd_gradient(g_psi, psi)
    assert torch.allclose(g_mu, mu.grad, rtol=1e-12, atol=1e-12)
    assert torch.allclose(g_psi, psi.grad, rtol=1e-12, atol=1e-12)


def test_kl_without_one_dimensional_tensors_leaves_exactly_those_out():
    tensors = {"matrix": torch.ones(3, 2), "bias": torch.ones(4)}
    matrix = {"matrix": tensors["matrix"]}
    prior = Prior(0.1, 10)

    def flat(of: dict) -> Flat:
        return Flat.copy_of(of)

    everything, without = prior.kl_over_n(flat(tensors), flat(tensors))
    alone, _ = prior.kl_over_n(flat(matrix), flat(matrix))
    assert without == pytest.approx(alone, rel=1e-12)
    assert everything == pytest.approx(alone * 10 / 6, rel=1e-12)  # ten equal weights against six


def test_an_empty_bayesian_set_adds_nothing():
    Prior(0.1, 10).add_mean_gradient([], {})
    assert Prior(0.1, 10).kl_over_n(Flat.copy_of({}), Flat.copy_of({})) == (0.0, 0.0)


def test_tensors_of_different_priors_have_their_own_gradients_and_divergences():
    generator = torch.Generator().manual_seed(0)
    scales = {"one": 0.25, "two": 2.0}
    mu = Flat.copy_of({name: torch.randn(3, 2, dtype=torch.float64, generator=generator) for name in scales})
    psi = Flat.copy_of({name: torch.randn(3, 2, dtype=torch.float64, generator=generator) - 2 for name in scales})
    leaves = {
        name: (mu.views[name].clone().requires_grad_(), psi.views[name].clone().requires_grad_()) for name in scales
    }
    total = torch.zeros((), dtype=torch.float64)
    for name, (mean, log_sd) in leaves.items():
        q, p = (
            torch.distributions.Normal(mean, log_sd.exp()),
            torch.distributions.Normal(0.0, torch.tensor(scales[name]).double()),
        )
        total = total + torch.distributions.kl_divergence(q, p).sum()
    (0.25 * 0.5 * total / 50).backward()
    prior = Prior(0.1, 50, 0.25, scales=scales)
    g_mu = [torch.zeros(3, 2, dtype=torch.float64) for _ in scales]
    g_psi = torch.zeros(12, dtype=torch.float64)
    prior.add_mean_gradient(g_mu, mu.views, 0.5)
    prior.add_log_sd_gradients(g_psi, psi, 0.5)
    assert prior.kl_over_n(mu, psi)[0] == pytest.approx(float(total.detach()) / 50, rel=1e-12)
    for got, (mean, _) in zip(g_mu, leaves.values(), strict=True):
        assert torch.allclose(got, mean.grad, rtol=1e-12)
    assert torch.allclose(g_psi, torch.cat([log_sd.grad.view(-1) for _, log_sd in leaves.values()]), rtol=1e-12)
    assert prior.log_sd == pytest.approx(math.log(2.0))


def test_one_prior_for_all_tensors_is_the_same_flat_as_tensor_by_tensor():
    psi = Flat.copy_of({"a": torch.randn(5), "b": torch.randn(3)})
    together, apart = torch.zeros(8), torch.zeros(8)
    Prior(0.1, 10).add_log_sd_gradients(together, psi)
    Prior(0.1, 10, scales=dict.fromkeys("ab", 1.0)).add_log_sd_gradients(apart, psi)
    assert torch.allclose(together, apart)


def test_the_scale_of_a_layer_is_the_standard_deviation_of_its_weights_unless_it_is_constant():
    tensors = {"varied": torch.tensor([[-1.0, 1.0], [3.0, 1.0]]), "constant": torch.ones(2, 2)}
    assert layer_scales(tensors, 0.01, 25) == pytest.approx({"varied": math.sqrt(2), "constant": 2.0})


def test_the_automatic_weight_of_the_divergence_falls_with_the_number_of_weights():
    assert [kl_weight("auto", 100, weights) for weights in (10, 25, 250)] == [1.0, 1.0, 0.1]
    assert kl_weight(0.3, 100, 10**6) == 0.3


def test_the_ramp_rises_from_a_hundredth_to_one_over_its_share_of_the_steps():
    factor = ramp(0.2, 50)
    assert [factor(t) for t in (0, 5, 10, 49)] == [0.01, pytest.approx(0.505), 1.0, 1.0]
    assert ramp(0.0, 50)(0) == 1.0

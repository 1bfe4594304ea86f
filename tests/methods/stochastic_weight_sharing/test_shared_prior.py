"""The KL divergence to the prior: closed forms over clusters against sums over weights, and against Monte Carlo."""

from __future__ import annotations

import math

import pytest
import torch
from shared_posterior_cases import flat, network, posterior_of, share, state_of
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from benchmark import ConfigError
from methods.stochastic_weight_sharing.codebook import Codebook, Codebook1d, Codebook2d
from methods.stochastic_weight_sharing.gaussians import SharedGaussians
from methods.stochastic_weight_sharing.labelling import Labelling
from methods.stochastic_weight_sharing.prior import Divergence, SharingPrior
from methods.stochastic_weight_sharing.sampler import Independent, Sampler, Tied
from methods.stochastic_weight_sharing.sharing.shared import Ellipses, Shared

SAMPLES = 1_000_000


def one_weight(codebook: Codebook, sampler: type[Sampler]) -> Sampler:
    """A network of a single weight, which a single cluster describes; r = 1."""
    symbols = torch.zeros(1, dtype=torch.uint8)
    labelling = Labelling.of_symbols({"w": torch.Size((1,))}, {"w": 1.0}, 1, symbols, Ellipses.none())
    return sampler(SharedGaussians(labelling, codebook, torch.zeros(0), torch.zeros(0)))


def kl_of(sampler: Sampler, p: float) -> float:
    return float(Divergence(SharingPrior({"w": p}, 1), sampler)())


def column(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def hierarchy() -> Codebook2d:
    """m = (.3, -1), L = [[.2, 0], [.05, .3]]."""
    return Codebook2d(column(0.3, -1.0, math.log(0.2), 0.05, math.log(0.3)))


def test_moments_and_divergences_of_the_hierarchy_equal_the_anchors():
    a, log_b = hierarchy().marginals()
    assert float(a) == 0.3
    assert float((2 * log_b).exp()) == pytest.approx(0.20283790839019697, rel=1e-13)
    assert kl_of(one_weight(hierarchy(), Independent), 0.7) == pytest.approx(0.23981329816238184, rel=1e-12)
    bound = kl_of(one_weight(hierarchy(), Tied), 0.7) + math.log(0.7) - 0.5  # the constant that training drops
    assert bound == pytest.approx(0.44213924829616247, rel=1e-12)


def test_the_bound_is_not_below_the_divergence_of_the_hierarchy():
    generator = torch.Generator().manual_seed(0)
    z = hierarchy().shared_draws(torch.randn(3, SAMPLES, 1, generator=generator, dtype=torch.float64)).squeeze(1)
    # q(x) = E_v N(x; m1 + cov/var (v - m2), remaining variance + exp(2 v)), by quadrature over v
    nodes = torch.linspace(-6, 6, 121, dtype=torch.float64)
    sd_v = math.hypot(0.05, 0.3)
    v = -1 + sd_v * nodes
    slope, left = 0.2 * 0.05 / sd_v, 0.2**2 - (0.2 * 0.05 / sd_v) ** 2
    density = Normal(0.3 + slope * nodes, (left + (2 * v).exp()).sqrt())
    log_weight = (-(nodes**2) / 2).log_softmax(0)
    z = z[:100_000]
    log_ratio = (density.log_prob(z[:, None]) + log_weight).logsumexp(1) - Normal(0.0, 0.7).log_prob(z)
    estimate, error = float(log_ratio.mean()), float(log_ratio.std()) / math.sqrt(len(z))
    bound = kl_of(one_weight(hierarchy(), Tied), 0.7) + math.log(0.7) - 0.5
    assert bound >= estimate + 3 * error
    assert estimate == pytest.approx(0.24, abs=0.05)  # near that of the Gaussian of equal moments


def test_shared_draws_of_the_hierarchy_have_the_marginal_moments():
    generator = torch.Generator().manual_seed(1)
    z = hierarchy().shared_draws(torch.randn(3, SAMPLES, 1, generator=generator, dtype=torch.float64))
    a, log_b = hierarchy().marginals()
    assert float(z.mean()) == pytest.approx(float(a), abs=4 * float(z.std()) / math.sqrt(SAMPLES))
    square = (z - a).square()
    assert float(square.mean()) == pytest.approx(
        float((2 * log_b).exp()), abs=4 * float(square.std()) / math.sqrt(SAMPLES)
    )


def test_divergence_of_independent_draws_equals_monte_carlo():
    sampler = one_weight(Codebook1d(column(0.3, math.log(0.2))), Independent)
    generator = torch.Generator().manual_seed(2)
    x = 0.3 + 0.2 * torch.randn(SAMPLES, generator=generator, dtype=torch.float64)
    ratio = Normal(0.3, 0.2).log_prob(x) - Normal(0.0, 0.7).log_prob(x)
    assert kl_of(sampler, 0.7) == pytest.approx(float(ratio.mean()), abs=3 * float(ratio.std()) / math.sqrt(SAMPLES))


def prior_of(shared: Shared, **options) -> SharingPrior:
    return SharingPrior({name: 0.1 + 0.2 * i for i, name in enumerate(shared.shapes)}, 100, **options)


@pytest.mark.parametrize("codebook", ["1d", "2d"])
@pytest.mark.parametrize("scaled", [True, False], ids=["scaled", "global"])
def test_divergence_of_independent_draws_is_the_sum_over_all_weights(codebook, scaled):
    net = network().double()
    shared = share(net, outliers=7, ellipses=11, scaled=scaled)
    prior = prior_of(shared)
    posterior = posterior_of(net, shared, codebook=codebook, storage="exact")
    mean, sd = (flat(weights, shared).double() for weights in posterior.mean_and_sd())
    p = torch.cat([torch.full((shape.numel(),), prior.scales[n]).double() for n, shape in shared.shapes.items()])
    expected = float(kl_divergence(Normal(mean, sd), Normal(0, p)).sum())
    divergence = Divergence(prior, Independent(posterior.gaussians))
    assert float(divergence()) == pytest.approx(expected, rel=1e-6)  # the posterior is float32


def test_divergence_of_tied_draws_is_that_of_the_codewords_under_the_restricted_prior():
    net = network().double()
    shared = share(net)
    prior = prior_of(shared)
    sampler = state_of(net, shared).sampler("tied")
    a, log_b = (tensor.detach() for tensor in sampler.gaussians.codebook.marginals())
    p = torch.cat([torch.full((shape.numel(),), prior.scales[n]).double() for n, shape in shared.shapes.items()])
    r = torch.cat([torch.full((shape.numel(),), shared.scale[n]).double() for n, shape in shared.shapes.items()])
    precision = torch.stack([((r / p) ** 2)[shared.labels == k].sum() for k in range(shared.components)])
    full = kl_divergence(Normal(a, log_b.exp()), Normal(0, precision.rsqrt()))
    dropped = (-precision.log() / 2 - 0.5).sum()
    assert float(Divergence(prior, sampler)()) == pytest.approx(float(full.sum() - dropped), rel=1e-6)


def test_the_weak_tied_prior_is_that_of_one_mean_weight():
    net = network().double()
    shared = share(net)
    prior = prior_of(shared, tied="weak")
    sampler = state_of(net, shared).sampler("tied")
    ratio = torch.cat(
        [torch.full((n.numel(),), prior.scales[k] / shared.scale[k]).double() for k, n in shared.shapes.items()]
    )
    expected = torch.stack([ratio[shared.labels == k].mean() ** -2 for k in range(shared.components)])
    assert torch.allclose(Divergence(prior, sampler).pull, expected, rtol=1e-6)


def test_a_prior_as_wide_as_the_scales_counts_the_members():
    net = network()
    shared = share(net, outliers=7, ellipses=11)
    divergence = Divergence(SharingPrior(shared.scale, 100), state_of(net, shared).sampler("independent"))
    n = torch.bincount(shared.labels, minlength=5).double()
    n[0] -= 7
    n -= torch.bincount(shared.labels[shared.ellipses.index], minlength=5)
    assert torch.equal(divergence.n, n)
    assert torch.allclose(divergence.pull, n, rtol=1e-6)
    assert torch.allclose(divergence.constant, -n / 2, rtol=1e-6)


def test_twice_the_data_halve_the_weight_of_the_divergence():
    assert SharingPrior({"w": 1.0}, 100, 0.5).rate == 2 * SharingPrior({"w": 1.0}, 200, 0.5).rate == 0.005


def test_a_prior_without_width_is_refused():
    with pytest.raises(ConfigError, match=r"scale of 'w' is 0\.0; it must be positive"):
        SharingPrior({"w": 0.0}, 100)


def test_ellipse_points_of_tied_draws_add_their_pull_under_the_prior():
    net = network().double()
    shared = share(net, ellipses=14)
    prior = prior_of(shared)
    divergence = Divergence(prior, state_of(net, shared).sampler("tied"))
    a, log_b = (tensor.detach() for tensor in divergence._gaussians.codebook.marginals())
    generator = torch.Generator().manual_seed(0)
    z = a + log_b.exp() * torch.randn(100_000, shared.components, generator=generator, dtype=torch.float64)
    blend, first = shared.ellipses, shared.labels[shared.ellipses.index].long()
    r, p = (
        torch.cat([torch.full((n.numel(),), each[name]).double() for name, n in shared.shapes.items()])
        for each in (shared.scale, prior.scales)
    )
    x = blend.alpha * z[:, first] + (1 - blend.alpha) * z[:, blend.second]
    pulls = ((r / p)[blend.index] ** 2 * x.square()).sum(1) / 2
    without = float((divergence.pull * (a.square() + (2 * log_b).exp()) / 2 - log_b).sum())
    error = float(pulls.std()) / math.sqrt(len(pulls))
    assert float(divergence()) == pytest.approx(without + float(pulls.mean()), abs=4 * error)


@pytest.mark.parametrize("tied", ["restricted", "weak"])
def test_a_cluster_of_ellipse_points_alone_has_no_pull(tied):
    blend = Ellipses(torch.tensor([2, 3]), torch.tensor([0, 0]), torch.tensor([0, 9]).to(torch.uint8))
    labelling = Labelling.of_symbols({"w": torch.Size((4,))}, {"w": 1.0}, 2, torch.tensor([0, 0, 1, 1]).byte(), blend)
    codebook = Codebook1d(torch.tensor([[0.1, 0.4], [-2.0, -3.0]]).double())
    sampler = Tied(SharedGaussians(labelling, codebook, torch.zeros(0), torch.zeros(0)))
    divergence = Divergence(SharingPrior({"w": 0.5}, 1, tied=tied), sampler)
    assert float(divergence.pull[1]) == 0
    assert math.isfinite(float(divergence()))

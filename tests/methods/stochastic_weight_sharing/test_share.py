"""The sharing as a whole: every engine and rule, edge cases, and wrong input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmark import ConfigError, Diverged
from methods.stochastic_weight_sharing.sharing.settings import SharingSettings
from methods.stochastic_weight_sharing.sharing.share import Gradients, share, sizes

ENGINES = ["kl", "gmm", "kmeans"]


def gaussians(seed: int = 0, shapes: dict[str, tuple[int, ...]] | None = None, *, dtype=torch.float64):
    """Heavy-tailed means with deviations that grow with them, in tensors of different scale."""
    generator = torch.Generator().manual_seed(seed)
    mu, sigma = {}, {}
    for position, (name, shape) in enumerate((shapes or {"conv": (40, 5, 3, 3), "head": (10, 40)}).items()):
        scale = 0.1 * 3**position
        mu[name] = scale * torch.randn(shape, generator=generator, dtype=dtype) ** 3 / 3
        sigma[name] = scale * (0.1 + 0.2 * torch.rand(shape, generator=generator, dtype=dtype))
    return mu, sigma


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors.values()])


def scales(mu) -> torch.Tensor:
    return torch.cat([torch.full((t.numel(),), float(t.std(correction=0)), dtype=torch.float64) for t in mu.values()])


def mean_kl_of(mu, sigma, shared) -> float:
    """Mean KL from every inlier's Gaussian to its codeword, weight by weight."""
    r = torch.cat([torch.full((t.numel(),), shared.scale[name], dtype=torch.float64) for name, t in mu.items()])
    x, s = flat(mu) / r, flat(sigma) / r
    a, variance = shared.clusters.codewords()
    own = shared.labels.long()
    p, q = torch.distributions.Normal(x, s), torch.distributions.Normal(a[own], variance[own].sqrt())
    inlier = torch.ones(len(x), dtype=torch.bool)
    inlier[shared.outliers.index] = False
    return float(torch.distributions.kl_divergence(p, q)[inlier].mean())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scope", ["scaled", "global", "layer"])
def test_every_weight_is_an_outlier_or_has_a_label_and_the_facts_are_those_of_the_labels(engine, scope):
    mu, sigma = gaussians()
    shared = share(mu, sigma, SharingSettings(cluster=engine, scope=scope, components=12, outlier_fraction=0.01))
    n = shared.labels.numel()
    inlier = torch.ones(n, dtype=torch.bool)
    inlier[shared.outliers.index] = False
    counts = torch.bincount(shared.labels[inlier].long(), minlength=shared.components)
    assert torch.equal(counts.double(), shared.clusters.n)
    assert (counts > 0).all()
    facts = shared.facts
    assert facts["weights"] == n == 2200
    assert facts["outliers"] == len(shared.outliers.index) == n - int(counts.sum())
    assert facts["gaussians"] == shared.components == 12  # both tensors are small: one codebook even for scope layer
    assert facts["mean_kl_nats"] == pytest.approx(mean_kl_of(mu, sigma, shared), rel=1e-9)
    shares = counts / counts.sum()
    assert facts["index_entropy_bits"] == pytest.approx(-float((shares * shares.log2()).sum()), abs=1e-6)
    assert 0 < facts["rel_mse_mu"] < 0.2


def test_the_outliers_are_stored_in_units_of_their_tensor():
    mu, sigma = gaussians()
    shared = share(mu, sigma, SharingSettings(components=8, outlier_fraction=0.02))
    index, r = shared.outliers.index, scales(mu)
    assert len(index) == 44
    assert torch.allclose(shared.outliers.x * r[index], flat(mu)[index])
    assert torch.allclose(shared.outliers.s * r[index], flat(sigma)[index])


def test_sharing_by_divergence_costs_less_divergence_than_the_other_engines():
    mu, sigma = gaussians(shapes={"w": (60, 60)})
    cost = {e: share(mu, sigma, SharingSettings(cluster=e, components=16)).facts["mean_kl_nats"] for e in ENGINES}
    assert cost["kl"] < min(cost["gmm"], cost["kmeans"])


def test_layers_of_their_own_never_share_across_tensors():
    mu, sigma = gaussians(shapes={"a": (70, 70), "tiny": (5, 5), "b": (80, 60), "small": (9, 9)})
    shared = share(mu, sigma, SharingSettings(scope="layer", components=4, outlier_fraction=0.01))
    pieces = dict(zip(mu, shared.labels.split([tensor.numel() for tensor in mu.values()]), strict=True))
    outlier = torch.zeros(len(shared.labels), dtype=torch.bool)
    outlier[shared.outliers.index] = True
    masks = dict(zip(mu, outlier.split([tensor.numel() for tensor in mu.values()]), strict=True))
    used = {name: set(own[~masks[name]].tolist()) for name, own in pieces.items()}
    assert used["a"] == {0, 1, 2, 3}
    assert used["b"] == {4, 5, 6, 7}
    assert used["tiny"] | used["small"] == {8, 9, 10, 11}
    assert shared.facts["codebooks"] == 3
    assert shared.facts["gaussians"] == 12
    r = scales(mu)
    assert torch.allclose(shared.outliers.x * r[shared.outliers.index], flat(mu)[shared.outliers.index])


@pytest.mark.parametrize("components", [2200, 5000])
def test_with_as_many_components_as_weights_sharing_is_the_mean_field_posterior(components):
    mu, sigma = gaussians()
    shared = share(mu, sigma, SharingSettings(components=components, outlier_fraction=0))
    a, variance = shared.clusters.codewords()
    own, r = shared.labels.long(), scales(mu)
    assert torch.equal(own, torch.arange(2200))
    assert torch.allclose(a[own] * r, flat(mu), rtol=1e-9)
    assert torch.allclose(variance[own].sqrt() * r, flat(sigma), rtol=1e-6)
    assert shared.facts["mean_kl_nats"] == pytest.approx(0, abs=1e-8)


def test_one_component_has_the_moments_of_all_weights():
    mu, sigma = gaussians()
    shared = share(mu, sigma, SharingSettings(components=1, outlier_fraction=0))
    x, s = flat(mu) / scales(mu), flat(sigma) / scales(mu)
    a, variance = shared.clusters.codewords()
    assert float(a) == pytest.approx(float(x.mean()), rel=1e-9)
    assert float(variance) == pytest.approx(float((s**2 + x**2).mean() - x.mean() ** 2), rel=1e-9)
    assert shared.facts["index_entropy_bits"] == 0
    assert shared.facts["rel_mse_mu"] == pytest.approx(1)


def test_scaling_all_weights_changes_no_label_but_for_scope_global():
    mu, sigma = gaussians()
    small = [{name: 1e-3 * tensor for name, tensor in each.items()} for each in (mu, sigma)]
    assert torch.equal(share(mu, sigma).labels, share(*small).labels)


def test_thresholds_without_limits_merge_everything_and_zero_merges_nothing():
    mu, sigma = gaussians()
    base = {"cluster": "gmm", "merge": "w2", "components": None, "components_init": 20, "tau_g": None, "tau_v": None}
    everything = share(mu, sigma, SharingSettings(**base, tau_d=1e9))
    nothing = share(mu, sigma, SharingSettings(**base, tau_d=0))
    assert everything.components == 1
    assert everything.facts["merges"] > 10
    assert nothing.facts["merges"] == 0
    assert nothing.components > 10  # EM may have dissolved a few
    assert (everything.facts["outliers"], nothing.facts["outliers"]) != (2200, 2200)


def test_the_published_rule_makes_outliers_of_large_steep_and_lonely_weights():
    mu, sigma = gaussians()
    magnitude = {name: torch.rand(t.shape, generator=torch.Generator().manual_seed(3)) for name, t in mu.items()}
    rules = {"scope": "global", "outliers": "gradient", "outlier_fraction": 0.01, "outlier_size": 0.4}
    chosen = SharingSettings(**rules, cluster="kmeans", components=16, outlier_cluster=0)
    shared = share(mu, sigma, chosen, gradients=Gradients(magnitude, magnitude))
    steep = flat(magnitude).topk(22).indices
    large = (flat(mu).abs() > 0.4).nonzero().squeeze(1)
    assert set(shared.outliers.index.tolist()) >= set(steep.tolist()) | set(large.tolist())
    lonely = share(
        mu, sigma, chosen.model_copy(update={"outlier_cluster": 100}), gradients=Gradients(magnitude, magnitude)
    )
    assert lonely.facts["outliers"] > shared.facts["outliers"]


def test_blended_points_are_ellipse_points_with_two_clusters():
    mu, sigma = gaussians(shapes={"w": (60, 60)})
    shared = share(mu, sigma, SharingSettings(components=10, blend="moments", ellipse_quantile=0.9))
    points = shared.ellipses
    assert len(points.index) == shared.facts["ellipses"] > 20
    assert (points.second != shared.labels[points.index].long()).all()
    assert not set(points.index.tolist()) & set(shared.outliers.index.tolist())


def test_the_same_seed_gives_the_same_sharing_and_another_one_may_not():
    mu, sigma = gaussians(shapes={"w": (100, 60)})
    one, two, other = (share(mu, sigma, SharingSettings(components=20), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.labels, two.labels)
    assert not torch.equal(one.labels, other.labels)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1000),
    components=st.integers(1, 40),
    engine=st.sampled_from(ENGINES),
    merge=st.sampled_from(["ward", "w2", "none"]),
    fraction=st.sampled_from([0.0, 0.03]),
)
def test_any_combination_keeps_the_moments_of_the_inliers(seed, components, engine, merge, fraction):
    mu, sigma = gaussians(seed, {"a": (17, 6), "b": (9, 5)})
    shared = share(
        mu, sigma, SharingSettings(components=components, cluster=engine, merge=merge, outlier_fraction=fraction)
    )
    inlier = torch.ones(147, dtype=torch.bool)
    inlier[shared.outliers.index] = False
    x, s = (flat(each) / scales(mu) for each in (mu, sigma))
    assert shared.components >= 1
    total = shared.clusters.table.sum(1)
    assert float(total[0]) == int(inlier.sum())
    assert float(total[1]) == pytest.approx(float(x[inlier].sum()), rel=1e-9, abs=1e-9)
    assert float(total[7]) == pytest.approx(float((s**2)[inlier].sum()), rel=1e-9)
    assert int(shared.labels.max()) < shared.components


@pytest.mark.parametrize("engine", ENGINES)
def test_clusters_that_are_not_found_or_given_up_are_no_merges(engine):
    mu = {"w": torch.randn(3, generator=torch.Generator().manual_seed(0)).repeat(50)[:, None]}
    found = SharingSettings(cluster=engine, components=12, merge="none", outlier_fraction=0)
    shared = share(mu, {"w": torch.full((150, 1), 0.1)}, found)
    assert shared.components == 3
    assert shared.facts["merges"] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_deviations_of_zero_are_kept_away_from_zero_in_any_precision(dtype):
    mu, sigma = gaussians(dtype=dtype)
    sigma = {name: torch.zeros_like(tensor) for name, tensor in sigma.items()}
    shared = share(mu, sigma, SharingSettings(components=8))
    assert math.isfinite(shared.facts["mean_kl_nats"])
    assert torch.allclose(shared.outliers.s.double(), torch.tensor(1e-8).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("weights", "settings", "expected"),
    [
        (10_000, {}, (200, 200)),
        (1_000_000, {}, (1024, 256)),
        (1_000_000, {"components": 16}, (512, 16)),
        (1_000_000, {"cluster": "gmm", "merge": "w2", "components": None}, (2048, 1)),
        (100, {"components": 64}, (64, 64)),
        (100, {"components": 64, "merge": "none"}, (64, 64)),
        (10, {}, (1, 1)),
    ],
)
def test_automatic_numbers_leave_fifty_weights_per_component_and_given_ones_stand(weights, settings, expected):
    assert sizes(SharingSettings(**settings), weights) == expected


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"components": 0}, ("components", "0", "1")),
        ({"components": 65_536}, ("components", "65536", "65535")),
        ({"outlier_fraction": 0.6}, ("outlier_fraction", "0.6", "0.5")),
        ({"outlier_fraction": -0.1}, ("outlier_fraction",)),
        ({"ellipse_quantile": 1.0}, ("ellipse_quantile", "1")),
        ({"ellipse_quantile": 0.0}, ("ellipse_quantile", "0")),
        ({"tau_d": -1}, ("tau_d", "-1")),
        ({"tau_g": -1}, ("tau_g",)),
        ({"tau_v": -1}, ("tau_v",)),
        ({"components": None}, ("components", "w2", "ward")),
        ({"components": 64, "components_init": 32}, ("components_init", "32", "64")),
        ({"grid": [65536, 128]}, ("grid", "65536", "4,194,304")),
    ],
    ids=lambda given_: "-".join(map(str, given_)) if isinstance(given_, dict) else "",
)
def test_settings_out_of_range_are_refused_with_the_field_and_the_legal_values(given_, words):
    with pytest.raises(ValidationError) as error:
        SharingSettings(**given_)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_numbers_that_are_not_finite_name_the_tensor(bad, which):
    pair = gaussians()
    pair[which]["head"][3, 3] = bad
    with pytest.raises(Diverged, match="head"):
        share(*pair)


def test_wrong_tensors_are_refused():
    mu, sigma = gaussians()
    with pytest.raises(ConfigError, match="no weights"):
        share({}, {})
    with pytest.raises(ConfigError, match="same names"):
        share(mu, {"conv": sigma["conv"]})
    with pytest.raises(ConfigError, match=r"sigma of 'head'.*negative"):
        share(mu, {**sigma, "head": -sigma["head"]})
    with pytest.raises(ConfigError, match=r"scale of 'head' is 0.0"):
        share({**mu, "head": torch.ones(10, 40)}, sigma)
    with pytest.raises(ConfigError, match="gradient"):
        share(mu, sigma, SharingSettings(outliers="gradient"))


def test_too_many_components_for_clusters_of_three_say_which_settings_to_lower():
    mu, sigma = gaussians()
    with pytest.raises(ConfigError, match="lower outlier_fraction, outlier_cluster or components"):
        share(mu, sigma, SharingSettings(cluster="gmm", components=2199))


def test_nobody_left_to_share_is_an_error():
    mu, sigma = gaussians()
    rule = SharingSettings(outliers="gradient", outlier_fraction=0, outlier_size=1e-30, scope="global")
    with pytest.raises(ConfigError, match="outliers"):
        share(mu, sigma, rule)

"""Distance, hinge and variance of features: oracle cases, their relation, and where the hinge has a gradient."""

from __future__ import annotations

import pytest
import torch
from last_block_cases import oracle

from methods.last_block_ensemble.features import distance, hinge, variance


def double(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("case", oracle("feature_hinge"), ids=lambda case: case["id"])
def test_distance_and_hinge_reproduce_the_oracle(case):
    given, expected, tolerance = case["inputs"], case["expected"], case["tolerance"]["abs"]
    found = distance(double(given["features_1"]), double(given["features_2"]))
    assert found.tolist() == pytest.approx(expected["mean_sq_diff"], abs=tolerance)
    assert float(hinge(found, given["gamma"])) == pytest.approx(expected["hinge"], abs=tolerance)


@pytest.mark.parametrize("case", oracle("feature_variance"), ids=lambda case: case["id"])
def test_the_variance_reproduces_the_oracle(case):
    features = double(case["inputs"]["features"])[:, None]  # one input
    found = variance(features)
    assert found.tolist() == pytest.approx([case["expected"]["score"]], abs=case["tolerance"]["abs"])


def test_the_mean_distance_of_distinct_members_is_twice_the_variance():
    features = torch.randn(5, 3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pairs = [distance(features[a], features[b]) for a in range(5) for b in range(5) if a != b]
    assert torch.allclose(torch.stack(pairs).mean(0), 2 * variance(features), rtol=1e-12)


def test_equal_features_have_a_hinge_without_a_gradient():
    same = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for shift, moves in ((0.0, False), (1e-6, True)):
        first = same.clone().requires_grad_()
        hinge(distance(first, same + shift), 0.5).backward()
        assert bool((first.grad != 0).any()) == moves


def test_half_precision_is_averaged_in_single():
    features = torch.full((2, 1, 100_000), 1.0, dtype=torch.bfloat16)
    features[1] = 0.5
    assert distance(*features).dtype == torch.float32
    assert float(distance(*features)) == pytest.approx(0.25)
    assert float(variance(features)) == pytest.approx(0.125)

"""Outliers: the costliest weights, the steepest, the largest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark import ConfigError
from methods.stochastic_weight_sharing.sharing import largest, plane
from methods.stochastic_weight_sharing.sharing.largest import Largest
from methods.stochastic_weight_sharing.sharing.moments import ROWS, Moments
from methods.stochastic_weight_sharing.sharing.outliers import by_gradient, costliest
from methods.stochastic_weight_sharing.sharing.plane import Plane

A = torch.tensor([-0.5, 0.2, 1.0], dtype=torch.float64)
VARIANCE = torch.tensor([0.04, 0.3, 0.01], dtype=torch.float64)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (plane, largest):
        monkeypatch.setattr(module, "CHUNK", 37)


def points() -> Plane:
    """120 and 250 weights with scales 2 and 0.5."""
    generator = torch.Generator().manual_seed(0)
    mu = {name: torch.randn(shape, generator=generator) for name, shape in (("a", (4, 30)), ("b", (250,)))}
    sigma = {name: 0.2 * torch.randn(value.shape, generator=generator).exp() for name, value in mu.items()}
    return Plane(mu, sigma, {"a": 2.0, "b": 0.5})


def clusters() -> Moments:
    n = torch.tensor([5.0, 7.0, 11.0], dtype=torch.float64)
    table = torch.zeros(len(ROWS), 3, dtype=torch.float64)
    table[0], table[1], table[2] = n, n * A, n * (VARIANCE + A.square())
    return Moments(table)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64], ids=["uint8", "int32", "int64"])
@pytest.mark.parametrize("count", [0, 1, 60, 370, 500])
def test_the_costliest_are_those_of_a_sort_by_kl(count, dtype):
    made = points()
    labels = torch.randint(3, (370,), generator=torch.Generator().manual_seed(1))
    x, s = (value.double() for value in made.at(torch.arange(370)))
    a, variance = A[labels], VARIANCE[labels]
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(x, s), torch.distributions.Normal(a, variance.sqrt())
    )
    expected = kl.argsort(descending=True)[:count].sort().values
    found = costliest(made, labels.to(dtype), clusters(), count)
    assert found.dtype == torch.int64
    assert torch.equal(found, expected)


@pytest.mark.usefixtures("small_pieces")
def test_of_equal_costs_the_first_weights_are_taken():
    same = Plane({"a": torch.ones(200)}, {"a": torch.ones(200)}, {"a": 1.0})
    assert costliest(same, torch.zeros(200, dtype=torch.uint8), clusters(), 50).tolist() == list(range(50))


@given(st.lists(st.lists(st.integers(0, 6), max_size=90), max_size=8), st.integers(0, 60))
def test_the_largest_of_pieces_are_those_of_a_stable_sort(pieces, count):
    before, largest.CHUNK = largest.CHUNK, 20
    try:
        found, start = Largest(count, torch.device("cpu")), 0
        for piece in pieces:
            found.see(torch.tensor(piece, dtype=torch.float32), start)
            assert found._held <= 2 * count + 20
            start += len(piece)
        values = torch.tensor([value for piece in pieces for value in piece])
        expected = values.sort(descending=True, stable=True).indices[:count].sort().values
        assert found.index().tolist() == expected.tolist()
        if count and start:
            assert found.smallest() == values[expected].min()
    finally:
        largest.CHUNK = before


@pytest.mark.usefixtures("small_pieces")
def test_the_steepest_share_is_taken_over_all_tensors_and_the_large_are_added():
    made = points()
    generator = torch.Generator().manual_seed(2)
    gradients = {name: torch.rand(shape, generator=generator) for name, shape in made.shapes.items()}
    steepness = torch.cat([gradients["a"].flatten(), gradients["b"]])
    sizes = torch.cat([made._mu["a"].flatten(), made._mu["b"]]).abs()
    expected = sizes > 1.5
    expected[steepness.argsort(descending=True)[:37]] = True
    assert (sizes > 1.5).sum() > 20
    found = by_gradient(made, gradients, 0.1, 1.5)
    assert torch.equal(found, expected.nonzero()[:, 0])
    assert torch.equal(by_gradient(made, None, 0.0, 1.5), (sizes > 1.5).nonzero()[:, 0])
    assert len(by_gradient(made, gradients, 0.1, None)) == 37
    assert by_gradient(made, None, 0.0, None).tolist() == []


def test_a_share_of_unknown_gradients_is_refused():
    with pytest.raises(ConfigError, match=r"outlier_fraction 0\.01 needs the weights' mean \|gradient\|"):
        by_gradient(points(), None, 0.01, None)

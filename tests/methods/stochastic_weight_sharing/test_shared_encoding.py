"""Shared Gaussians as bytes: exact, of the size that the formula gives, and refused where they make no sense."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shared_posterior_cases import (
    TwoConvolutions,
    bytes_of,
    decoded,
    flat,
    network,
    posterior_of,
    seeded,
    share,
    state_of,
)
from torch import Tensor, nn

from benchmark import BitReader, BitWriter, CorruptBitstream, copy_of, weights_of
from methods.stochastic_weight_sharing.accounting import code_length
from methods.stochastic_weight_sharing.encoding import STEPS_PER_NAT, label_bits, rounded_outliers
from methods.stochastic_weight_sharing.posterior import SharedPosterior
from methods.stochastic_weight_sharing.sharing.shared import Shared

CASES = [
    (sampling, codebook, storage, ellipses, scaled)
    for sampling in ("independent", "tied")
    for codebook in ("1d", "2d")
    for storage, ellipses, scaled in (("compact", 0, True), ("compact", 14, False), ("exact", 14, True))
]


@pytest.mark.parametrize(("sampling", "codebook", "storage", "ellipses", "scaled"), CASES)
def test_the_decoded_posterior_is_the_encoded_one(sampling, codebook, storage, ellipses, scaled):
    net = network()
    shared = share(net, outliers=9, ellipses=ellipses, scaled=scaled)
    posterior = posterior_of(net, shared, codebook=codebook, sampling=sampling, storage=storage)
    data = bytes_of(posterior)
    again = decoded(data, network(1))
    assert bytes_of(again) == data
    assert BitReader(data).codec == storage
    for ours, theirs in zip(posterior.mean_and_sd(), again.mean_and_sd(), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    a, b = (copy_of(next(iter(p.draws(1, seeded())))) for p in (posterior, again))
    assert a.keys() == b.keys() == weights_of(net).keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_exact_storage_keeps_what_was_trained():
    net = network()
    shared = share(net, outliers=9, ellipses=14)
    state = state_of(net, shared)
    before = state.sampler("independent").moments()
    after = state.posterior("independent", "exact").mean_and_sd()
    for exact, stored in zip(before, after, strict=True):
        assert torch.allclose(exact.flat, flat(stored, shared), rtol=1e-6)


def test_without_outliers_and_scales_there_is_nothing_to_say_of_them():
    net = network()
    sections = BitReader(bytes_of(posterior_of(net, share(net, scaled=False)))).sections()
    assert "scale" not in sections
    assert not any(name.startswith("ellipses") for name in sections)
    assert sections["outliers.mean"] < 8
    assert sections["outliers.log_sd"] < 8


@given(values=st.lists(st.tuples(st.floats(-1e6, 1e6, width=32), st.floats(-18, 6, width=32)), min_size=1, max_size=30))
def test_compact_outliers_are_half_precision_and_a_thirty_second_of_a_nat_away(values):
    x, log_s = (torch.tensor(list(column), dtype=torch.float64) for column in zip(*values, strict=True))
    stored_x, stored_log_s = rounded_outliers(x, log_s, "compact")
    fits = x.abs() < 65504
    assert ((stored_x - x).abs()[fits] <= 2**-11 * x.abs()[fits] + 2**-25).all()
    assert stored_x.abs().max() <= 65504
    assert (stored_log_s - log_s).abs().max() <= 0.5 / STEPS_PER_NAT
    again = rounded_outliers(stored_x, stored_log_s, "compact")
    assert torch.equal(again[0], stored_x)
    assert torch.equal(again[1], stored_log_s)


def wide(seed: int = 0) -> nn.Module:
    """100,000 weights in one tensor."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(250, 400, bias=False)


@pytest.mark.parametrize("outliers", [0, 100])
@pytest.mark.parametrize("components", [1, 2, 256, 257])
def test_a_hundred_thousand_labels_come_back(components, outliers):
    net = wide()
    shared = share(net, components, outliers=outliers)
    data = bytes_of(posterior_of(net, shared))
    labelling = decoded(data, net).gaussians.labelling
    inlier = torch.ones(100_000, dtype=torch.bool).index_fill_(0, shared.outliers.index, False)
    assert torch.equal(labelling.symbols[inlier].int(), shared.labels[inlier].int())
    assert torch.equal(labelling.outlier_index, shared.outliers.index)
    assert BitReader(data).sections()["labels"] < 100_000 * math.log2(components + 1) / 8 + 800


@pytest.mark.parametrize("ellipses", [0, 300])
@pytest.mark.parametrize("storage", ["compact", "exact"])
@pytest.mark.parametrize("codebook", ["1d", "2d"])
def test_the_file_takes_what_the_formula_says(codebook, storage, ellipses):
    net = nn.Sequential(wide(), nn.Linear(400, 40))
    shared = share(net, 64, outliers=1000, ellipses=ellipses)
    data = bytes_of(posterior_of(net, shared, codebook=codebook, storage=storage))
    inlier = torch.ones(len(shared.labels), dtype=torch.bool).index_fill_(0, shared.outliers.index, False)
    levels = (rounded_outliers(shared.outliers.x, shared.outliers.s.log(), "compact")[1] * STEPS_PER_NAT).int()
    formula = code_length(
        weights=len(shared.labels),
        components=64,
        outliers=1000,
        ellipses=ellipses,
        label_bits=entropy(shared.labels[inlier]),
        outlier_bits=64 if storage == "exact" else 16 + entropy(levels - levels.min()),
        codeword_bits=64 if codebook == "1d" else 160,
        ellipse_bits=entropy(shared.ellipses.second) + 8 if ellipses else None,
        scales=2,
        rest=40,
    )
    header = 8 * (len(data) - sum(BitReader(data).sections().values()))
    assert 8 * len(data) == pytest.approx(formula.total + header, rel=5e-3)


def entropy(symbols: Tensor) -> float:
    """Bits per symbol."""
    return label_bits(torch.bincount(symbols)) / len(symbols)


def test_labels_are_coded_tensor_by_tensor_where_tensors_differ():
    net = nn.Sequential(nn.Linear(200, 100, bias=False), nn.Linear(100, 200, bias=False))
    alike = share(net, 16)
    half = torch.arange(40_000) % 8 + 8 * (torch.arange(40_000) >= 20_000)
    apart = replace(alike, labels=half.to(torch.uint8))  # one half of the codebook each
    files = [BitReader(bytes_of(posterior_of(net, shared))).sections() for shared in (alike, apart)]
    assert "labels" in files[0]
    assert {"labels.0", "labels.1"} <= files[1].keys()
    assert files[1]["labels.0"] + files[1]["labels.1"] < 1.02 * 40_000 * 3 / 8
    assert torch.equal(decoded(bytes_of(posterior_of(net, apart)), net).gaussians.labelling.symbols, apart.labels)


def test_bytes_of_another_architecture_are_refused():
    net = network()
    data = bytes_of(posterior_of(net, share(net, outliers=9)))
    for other in (TwoConvolutions(classes=4), nn.Sequential(nn.Linear(4, 3)), wide()):
        with pytest.raises(CorruptBitstream, match="another architecture"):
            SharedPosterior.decode(BitReader(data), other)


class Forged(BitWriter):
    """Writes something else in place of some sections."""

    def __init__(self, **changed: object) -> None:
        super().__init__()
        self._changed = changed

    def _add(self, name, kind, payload) -> None:
        if name in self._changed:
            change, made = self._changed.pop(name), BitWriter()
            {"settings": made.json, "codebook": made.tensor, "scale": made.tensor, "outliers.mean": made.tensor}.get(
                name, made.indices
            )(name, change)
            kind, payload = made._sections[name].kind, made._sections[name].payload
        super()._add(name, kind, payload)


SETTINGS = {"sampling": "tied", "storage": "compact", "labels": "one", "scaled": True, "blended": True}
FORGERIES = [
    ("labels", torch.full((672,), 6), "labels from 6 to 6; with 5 clusters"),
    ("labels", torch.full((672,), -1), "labels from -1 to -1"),
    ("labels", torch.zeros(671, dtype=torch.int64), "another architecture"),
    ("labels", torch.zeros(672, dtype=torch.int64), "mask of ellipse points does not fit"),
    ("ellipses.mask", torch.zeros(3, dtype=torch.bool), "mask of ellipse points does not fit"),
    ("ellipses.mask", torch.zeros(663, dtype=torch.bool), "0 ellipse points with 14 clusters"),
    ("ellipses.second", torch.full((14,), 5), "second clusters from 5 to 5; legal: 0 to 4"),
    ("ellipses.level", torch.zeros(13, dtype=torch.uint8), "14 clusters, 13 levels"),
    ("outliers.mean", torch.zeros(8), "8 means and 9 deviations"),
    ("codebook", torch.zeros(3, 5), r"a codebook of shape \(3, 5\)"),
    ("codebook", torch.zeros(2, 0), r"a codebook of shape \(2, 0\)"),
    ("scale", torch.tensor([1.0, -1.0, 1.0]), "not 3 positive numbers"),
    ("scale", torch.ones(2), "not 3 positive numbers"),
    ("settings", {**SETTINGS, "sampling": "both"}, "sampling is 'both'; legal: 'independent', 'tied'"),
    ("settings", {}, "settings are not sampling, storage"),
    ("settings", [], "settings are not sampling, storage"),
]


@pytest.mark.parametrize(
    ("section", "value", "message"), FORGERIES, ids=[f"{i}-{f[0]}" for i, f in enumerate(FORGERIES)]
)
def test_forged_sections_are_refused(section, value, message):
    net = network()
    posterior = posterior_of(net, share(net, outliers=9, ellipses=14))
    out = Forged(**{section: value})
    posterior.encode(out)
    assert not out._changed
    with pytest.raises(CorruptBitstream, match=message):
        SharedPosterior.decode(BitReader(out.finish()), net)


def test_a_rest_that_misses_a_buffer_is_refused():
    net = network()
    posterior = posterior_of(net, share(net))
    rest = {name: tensor for name, tensor in posterior._rest.items() if name != "norm.running_var"}
    data = bytes_of(SharedPosterior(posterior._stored, rest))
    with pytest.raises(CorruptBitstream, match="or miss a buffer"):
        decoded(data, net)


def test_facts_are_those_of_the_fit_and_are_not_in_the_bytes():
    net = network()
    posterior = posterior_of(net, share(net), facts={"gaussians": 5})
    assert posterior.facts() == {"gaussians": 5}
    assert decoded(bytes_of(posterior), net).facts() == {}


def test_a_posterior_is_a_copy_of_the_state():
    net = network()
    shared: Shared = share(net, outliers=9)
    state = state_of(net, shared)
    posterior = state.posterior("independent", "compact")
    before = bytes_of(posterior)
    with torch.no_grad():
        for tensor in [*state.gaussians.trained().values(), *state.points.trained.values()]:
            tensor.add_(1)
    assert bytes_of(posterior) == before

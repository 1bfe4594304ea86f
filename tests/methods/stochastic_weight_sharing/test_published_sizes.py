"""What the counts of the published table amount to under an honest code."""

from __future__ import annotations

import math

import pytest

from methods.stochastic_weight_sharing.accounting import code_length, position_bits

# network, N, outliers, ellipse points, Gaussians (README of the release); bits of the outliers' positions, of all
ROWS = [
    ("resnet18-imagenet", 11_678_912, 23_013, 10_885, 2_217, 239_982.8, 142_281_263),
    ("resnet18-cifar100", 11_210_432, 14_624, 260, 2_387, 161_207.3, 135_838_332),
    ("resnet18-cifar10", 11_164_352, 123_310, 57, 1_569, 978_475.3, 130_574_979),
]


@pytest.mark.parametrize(
    ("weights", "outliers", "ellipses", "components", "positions", "total"),
    [row[1:] for row in ROWS],
    ids=[row[0] for row in ROWS],
)
def test_published_counts_take_these_bits(weights, outliers, ellipses, components, positions, total):
    found = code_length(
        weights=weights, outliers=outliers, ellipses=ellipses, components=components, codeword_bits=5 * 32
    )
    assert found.positions == pytest.approx(positions, abs=0.1)
    assert found.total == pytest.approx(total, abs=1)
    assert 5.2 < 64 * weights / found.total < 5.5  # against mu and sigma in float32


def test_positions_take_the_logarithm_of_a_binomial_coefficient():
    assert position_bits(40, 7) == pytest.approx(math.log2(math.comb(40, 7)), rel=1e-12)
    assert position_bits(40, 0) == position_bits(40, 40) == 0


def test_the_parts_add_up():
    length = code_length(
        weights=100,
        components=5,
        outliers=3,
        ellipses=2,
        label_bits=2.5,
        outlier_bits=24,
        codeword_bits=64,
        ellipse_bits=11,
        scales=4,
        rest=6,
    )
    assert length.labels == 97 * 2.5
    assert length.outliers == 72
    assert length.codebook == 320
    assert length.ellipses == pytest.approx(22 + math.log2(math.comb(97, 2)))
    assert length.scale == 128
    assert length.rest == 192
    assert length.total == pytest.approx(97 * 2.5 + 72 + 320 + length.ellipses + 128 + 192 + length.positions)


def test_a_single_cluster_needs_no_labels():
    assert code_length(weights=100, components=1, outliers=0).labels == 0

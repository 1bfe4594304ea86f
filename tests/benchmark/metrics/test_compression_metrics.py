import math

import numpy as np
import pytest

from benchmark.metrics.compression import (
    WeightHistogram,
    bits_per_weight,
    entropy_bytes,
    score_size,
    score_weights,
    sparsity,
    unique_values,
)


def tensors(*rows):
    return {f"w{i}": np.array(row, dtype=np.float32) for i, row in enumerate(rows)}


def test_the_pinned_sizes():
    results = {name: result["value"] for name, result in score_size(850, 1000, 20).items()}
    assert results == {
        "bytes": 850,
        "bits_per_weight": pytest.approx(6.8, abs=1e-12),
        "ratio_fp32": pytest.approx(4.8, abs=1e-12),
        "ratio_fp16": pytest.approx(2.4, abs=1e-12),
        "ratio_mf32": pytest.approx(9.505882, abs=5e-7),
    }


@pytest.mark.parametrize("sizes", [(0, 10, 0), (10, 0, 0), (10, 10, -1)])
def test_sizes_must_make_sense(sizes):
    with pytest.raises(ValueError, match="expected >= 1"):
        bits_per_weight(*sizes)


def test_zeros_of_both_signs_are_one_value_and_tiny_is_not_zero():
    histogram = WeightHistogram(tensors([0, -0.0, 1e-30, 2]))
    assert unique_values(histogram).value == 3
    assert sparsity(histogram).value == 0.5


def test_the_pinned_entropy():
    value = entropy_bytes(WeightHistogram(tensors([0, 0, 0, 0, 1, 1, 2, 3], [5, 5])))
    assert value.value == pytest.approx(21.75, abs=1e-12)
    assert value.extra == {"coded": 1.75, "code_book": 20}


def test_values_are_counted_over_all_tensors_and_per_tensor():
    value = unique_values(WeightHistogram(tensors([[1, 2], [3, 3]], [3, 4])))
    assert (value.value, value.extra["per_tensor_max"], value.n) == (4, 3, 6)


def test_snapshots_are_pooled_by_tensor():
    histogram = WeightHistogram([tensors([0, 1], [7]), tensors([0, 2], [7])])
    assert unique_values(histogram).value == 4
    assert unique_values(histogram).extra["per_tensor_max"] == 3
    assert sparsity(histogram).value == pytest.approx(2 / 6, abs=1e-12)
    # pooled (0, 1, 0, 2) has 1.5 bits per weight and three values, (7, 7) none and one
    assert entropy_bytes(histogram).value == pytest.approx(4 * 1.5 / 8 + 12 + 4, abs=1e-12)


def test_continuous_weights_show_themselves():
    n = 100_000
    histogram = WeightHistogram(tensors(np.random.default_rng(0).standard_normal(n)))
    value = entropy_bytes(histogram)
    assert 8 * value.extra["coded"] / n == pytest.approx(16.6, abs=0.05)
    assert value.value / (4 * n) == pytest.approx(1.52, abs=0.01)


def test_the_entropy_is_that_of_an_obvious_loop():
    weights = np.random.default_rng(1).integers(0, 9, 500)
    shares = [(weights == value).mean() for value in set(weights.tolist())]
    bits = 500 * -sum(share * math.log2(share) for share in shares)
    assert entropy_bytes(WeightHistogram(tensors(weights))).extra["coded"] == pytest.approx(bits / 8, abs=1e-9)


def test_no_mean_is_not_applicable_and_bad_weights_have_failed():
    names = {"unique_values", "sparsity", "entropy_bytes"}
    assert {name: result["state"] for name, result in score_weights(None).items()} == dict.fromkeys(names, "na")
    assert {name: result["state"] for name, result in score_weights(tensors([0, 1])).items()} == dict.fromkeys(
        names, "ok"
    )
    for bad, reason in [
        (tensors([1, math.nan]), "'w0' are not finite"),
        ({}, "no decoded weights"),
        ([], "no decoded weights"),
        ([tensors([1]), tensors([1], [2])], "different names"),
    ]:
        results = score_weights(bad)
        assert {result["state"] for result in results.values()} == {"failed"}
        assert reason in results["sparsity"]["reason"]


def test_tensors_without_elements_add_nothing():
    histogram = WeightHistogram(tensors([0, 1], []))
    assert (unique_values(histogram).value, entropy_bytes(histogram).value) == (2, 2 / 8 + 8)

import pytest

from benchmark.metrics.cost import device_hours, latency_ms, macs, peak_memory, train_seconds


def test_seconds_of_all_attempts_and_of_the_base():
    alone = train_seconds([610.0, 300.0])
    assert (alone.value, alone.extra) == (910.0, {"attempts": 2})
    assert train_seconds([610.0, 300.0], base=1200.0).value == 2110.0


@pytest.mark.parametrize(("attempts", "base"), [([], 0.0), ([-1.0], 0.0), ([1.0], -1.0)])
def test_times_must_make_sense(attempts, base):
    with pytest.raises(ValueError, match="expected at least one attempt"):
        train_seconds(attempts, base)


def test_device_hours_count_every_device():
    assert device_hours(5400.0, 4).value == 6.0


def test_the_peak_is_the_largest_over_attempts():
    assert peak_memory([2**30, 3 * 2**30, 5]).value == 3 * 2**30


def test_the_latency_is_a_median_with_its_inter_quartile_range():
    value = latency_ms([5.0, 1.0, 2.0, 4.0, 100.0])
    assert (value.value, value.extra["iqr"], value.n) == (4.0, 3.0, 5)


def test_the_pinned_network_has_18_944_multiply_accumulates_per_draw():
    convolution, linear = 8 * 8 * 8 * 3 * 9, 512 * 10
    flops = 2 * (convolution + linear)
    assert macs(flops, 1).value == 18_944
    assert macs(flops, 30).value == 568_320

import pytest

from benchmark.metrics.catalogue import METRICS
from benchmark.metrics.record import Value
from benchmark.metrics.views import (
    binary_size,
    duration,
    failure,
    indistinguishable,
    show,
    show_with_floor,
    style_of,
    three_digits,
    unit,
)


@pytest.mark.parametrize(
    ("name", "value", "cell", "header"),
    [
        ("accuracy", 0.91234, "91.23", "%"),
        ("ece15", 0.0131, "1.31", "%"),
        ("ece15m", 0.0131, "1.31", "%"),
        ("gap", 0.05375, "+5.38", "%"),
        ("gap", -0.0021, "-0.21", "%"),
        ("gap", -0.00001, "+0.00", "%"),
        ("nll", 0.855105572, "0.8551", "nat"),
        ("nll_ts", 1.0, "1.0000", "nat"),
        ("brier", 0.544475, "0.5445", ""),
        ("entropy", 0.704832879, "0.7048", "nat"),
        ("mi", 0.259817, "0.2598", "nat"),
        ("ood_auroc[msp].svhn", 0.80625, "80.6", "%"),
        ("ood_fpr95[mi].svhn", 0.8, "80.00", "%"),
        ("aurc", 0.309672619, "309.67", "x 1000"),
        ("eaurc", 0.20625, "206.25", "x 1000"),
        ("bytes", 850, "850 B", ""),
        ("ratio_fp32", 12.34, "x12.3", ""),
        ("ratio_mf32", 9.505882, "x9.51", ""),
        ("ratio_fp16", 0.5204, "x0.520", ""),
        ("entropy_bytes", 21.75, "~21.8 B", ""),
        ("unique_values", 16.0, "16", ""),
        ("sparsity", 0.5, "50.00", "%"),
        ("train_seconds", 910.0, "15m 10s", ""),
        ("device_hours", 6.0, "6.00", "h"),
        ("peak_memory", 3 * 2**30, "3.00 GiB", ""),
        ("latency_ms", 4.5678, "4.57", "ms"),
        ("macs", 568_320, "568 k", ""),
        ("a_plugin_metric", 0.123456, "0.1235", ""),
    ],
)
def test_a_cell_and_its_header(name, value, cell, header):
    assert show(name, {"state": "ok", "value": value}) == cell
    assert unit(name) == header


def test_the_four_states_look_different():
    metric = METRICS["nll"]
    values = [
        Value.ok(0.0),
        Value.infinite(8),
        Value.na("x"),
        Value.failed("oom: epoch 4"),
        Value.failed("zero probability"),
    ]
    assert [show("nll", value.to_json(metric)) for value in values] == ["0.0000", "∞", "n/a", "OOM", "FAILED"]


def test_run_statuses_are_shown_by_name():
    shown = [
        failure(reason) for reason in ("timeout", "Killed: signal 9", "diverged: epoch 3", "oom", "no room: oom", "")
    ]
    assert shown == ["TIMEOUT", "KILLED", "DIVERGED", "OOM", "FAILED", "FAILED"]


def test_a_temperature_at_its_bound_is_marked():
    assert show("temperature", {"state": "ok", "value": 20.0, "extra": {"at_bound": True}}) == "20.000 (bound)"
    assert show("temperature", {"state": "ok", "value": 2.0}) == "2.000"


def test_a_calibration_error_stands_beside_its_floor():
    ok = {"state": "ok", "value": 0.0131}
    assert show_with_floor(ok, {"state": "ok", "value": 0.0124}) == "1.31 (floor 1.24)"
    assert show_with_floor(ok, {"state": "failed", "reason": "x"}) == "1.31"
    assert show_with_floor({"state": "na", "reason": "x"}, ok) == "n/a"


def test_below_the_95_per_cent_floor_is_indistinguishable_from_calibrated():
    def ok(value):
        return {"state": "ok", "value": value}

    assert indistinguishable(ok(0.0131), ok(0.0166))
    assert indistinguishable(ok(0.0166), ok(0.0166))
    assert not indistinguishable(ok(0.0167), ok(0.0166))
    assert not indistinguishable({"state": "failed", "reason": "x"}, ok(0.0166))


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (1024, "1.00 KiB"),
        (2**20 - 1, "1.00 MiB"),
        (10_700_000, "10.2 MiB"),
        (2**50, "1024 TiB"),
    ],
)
def test_binary_units_with_three_digits(size, shown):
    assert binary_size(size) == shown


@pytest.mark.parametrize(("value", "shown"), [(0.0, "0.00"), (0.009996, "0.0100"), (99.96, "100"), (-3.14159, "-3.14")])
def test_three_digits_round_over_a_power_of_ten(value, shown):
    assert three_digits(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0.00 s"), (59.7, "1m 00s"), (3599.6, "1h 00m"), (86_399, "1d 00h"), (3600 * 30, "1d 06h")],
)
def test_durations_roll_over(seconds, shown):
    assert duration(seconds) == shown


def test_every_metric_has_a_style_of_its_own():
    assert {name for name in METRICS if style_of(name) is None} == set()
    assert style_of("a_plugin_metric") is None

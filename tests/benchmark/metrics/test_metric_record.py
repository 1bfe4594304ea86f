import json
import math

import numpy as np
import pytest

from benchmark.metrics.record import Metric, Value

METRIC = Metric("half", 3, "", "none", (0, 1), (), compute=lambda: Value.ok(0.5))

VALUES = [
    (Value.ok(0.5), {"state": "ok", "value": 0.5}),
    (
        Value.ok(0.5, 8, 0.1, {"bins": [1, None]}),
        {"state": "ok", "value": 0.5, "n": 8, "se": 0.1, "extra": {"bins": [1, None]}},
    ),
    (Value.infinite(8, {"n_inf": 1}), {"state": "inf", "n": 8, "extra": {"n_inf": 1}}),
    (Value.na("one draw"), {"state": "na", "reason": "one draw"}),
    (Value.failed("oom: epoch 4"), {"state": "failed", "reason": "oom: epoch 4"}),
]


@pytest.mark.parametrize(("value", "expected"), VALUES, ids=["ok", "detailed", "inf", "na", "failed"])
def test_json_holds_what_there_is_and_comes_back(value, expected):
    record = value.to_json(METRIC)
    assert record == {"metric": "half", "version": 3, **expected}
    assert Value.from_json(json.loads(json.dumps(record, allow_nan=False))) == value


def test_from_samples_is_the_mean_and_its_standard_error_with_ddof_1():
    value = Value.from_samples(np.array([True, False, True, True]))
    assert (value.value, value.n) == (0.75, 4)
    assert value.se == pytest.approx(0.5 / math.sqrt(4), abs=1e-12)


def test_one_sample_has_no_standard_error():
    assert Value.from_samples(np.array([2.0])) == Value.ok(2.0, 1)


def test_numpy_numbers_in_the_details_become_plain_ones():
    value = Value.ok(1.0, extra={"a": np.float64(0.5), "b": np.arange(3), "c": (np.int64(1), np.bool_(True))})
    assert json.dumps(value.to_json(METRIC)["extra"]) == '{"a": 0.5, "b": [0, 1, 2], "c": [1, true]}'


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_never_holds_nan_or_infinity(number):
    with pytest.raises(ValueError, match="finite"):
        Value.ok(number)
    with pytest.raises(ValueError, match="finite"):
        Value.ok(0.0, 2, number)
    with pytest.raises(ValueError, match="JSON cannot hold"):
        Value.ok(0.0, extra={"bins": [0.5, number]})


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "ok"},
        {"state": "na"},
        {"state": "failed", "value": 1.0, "reason": "x"},
        {"state": "inf", "reason": "x"},
        {"state": "okay", "value": 1.0},
    ],
)
def test_fields_that_contradict_the_state_are_refused(fields):
    with pytest.raises(ValueError, match="state"):
        Value(**fields)


def test_records_are_frozen():
    with pytest.raises(AttributeError):
        METRIC.version = 4
    with pytest.raises(AttributeError):
        Value.ok(1.0).value = 2.0

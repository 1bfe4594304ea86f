"""Time limits: what may be written, what past runs say, what margin is left to save."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark import ConfigError
from slurm.minutes import limit_warnings, margin_seconds, minutes_for, parse_minutes, usual_seconds


@pytest.mark.parametrize(
    ("written", "minutes"), [(90, 90), ("90", 90), ("90m", 90), ("6h", 360), (" 6 h ", 360), (1, 1)]
)
def test_whole_minutes_and_hours_are_read(written: Any, minutes: int) -> None:
    assert parse_minutes(written) == minutes


@pytest.mark.parametrize("written", ["00:30:00", "10:00:00", "1-00:00", 0, "0m", -5, 1.5, "1.5h", "", "2d", None, True])
def test_everything_else_is_refused_with_the_legal_forms(written: Any) -> None:
    with pytest.raises(ValueError, match=r'write 90 or "90m" for minutes, "6h" for hours'):
        parse_minutes(written)


def test_a_colon_is_named_as_the_mistake() -> None:
    with pytest.raises(ValueError, match="no colon"):
        parse_minutes("00:30:00")


def test_the_percentile_is_by_nearest_rank() -> None:
    assert usual_seconds([]) is None
    assert usual_seconds([7.0]) == 7.0
    assert usual_seconds([float(n) for n in range(19, 0, -1)]) == 19.0
    assert usual_seconds([float(n) for n in range(1, 21)]) == 19.0
    assert usual_seconds([float(n) for n in range(1, 101)]) == 95.0


@pytest.mark.parametrize(("seconds", "minutes"), [(0.0, 10), (1.0, 11), (40.0, 11), (41.0, 12), (3600.0, 100)])
def test_a_limit_is_half_as_much_again_and_ten_minutes(seconds: float, minutes: int) -> None:
    assert minutes_for(seconds) == minutes


@given(st.lists(st.floats(0, 1e7), min_size=1))
def test_at_least_95_percent_of_the_past_runs_fit_the_limit_made_of_them(past: list[float]) -> None:
    usual = usual_seconds(past)
    assert usual is not None
    assert sum(seconds <= usual for seconds in past) >= 0.95 * len(past)
    assert minutes_for(usual) * 60 >= 1.5 * usual + 600


@pytest.mark.parametrize(
    ("minutes", "save", "margin"), [(60, 0, 120), (60, 100, 200), (5, 0, 100), (1, 0, 20), (60, 5000, 1200)]
)
def test_the_margin_is_two_minutes_or_two_saves_and_never_above_a_third(minutes: int, save: float, margin: int) -> None:
    assert margin_seconds(minutes, save) == margin


def test_the_margin_of_the_profile_wins_unless_nothing_is_left_to_work_in() -> None:
    assert margin_seconds(1, wanted=20) == 20
    assert margin_seconds(60, longest_save=500, wanted=30) == 30
    with pytest.raises(ConfigError, match=r"margin_s = 60: .*1 min.*\n  legal: 1 to 59"):
        margin_seconds(1, wanted=60)


def test_short_limits_and_limits_of_less_than_three_saves_are_warned_of() -> None:
    assert limit_warnings(60, 120, 60) == []
    (short,) = limit_warnings(4, 20, 60)
    assert "4 min" in short
    assert "Below 5 min" in short
    (few,) = limit_warnings(60, 1200, 1000)
    assert "2400 s are left" in few
    assert "less than 3 saves" in few
    assert len(limit_warnings(1, 20, 60)) == 2

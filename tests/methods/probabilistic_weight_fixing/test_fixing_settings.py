"""Settings of the fixing: defaults, legal ranges, and what a wrong one is told."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from methods.probabilistic_weight_fixing.settings import FixingSettings


def test_defaults_are_the_recommended_ones():
    assert FixingSettings().model_dump() == {
        "b": 7,
        "omega_max": 4,
        "inc": 2.0,
        "max_phases": 64,
        "zero_fix": True,
        "count": "coverage",
        "membership": "max",
        "sigma_join": "std_mu",
        "sigma_init": "pow2",
        "sigma_scale": 0.0025,
        "sigma_quantile": 0.75,
        "sigma_max": 0.05,
    }


@pytest.mark.parametrize(
    ("field", "value", "legal"),
    [
        ("b", 0, "greater than or equal to 1"),
        ("b", 16, "less than or equal to 15"),
        ("b", 7.5, "valid integer"),
        ("omega_max", 0, "greater than or equal to 1"),
        ("inc", 1.0, "greater than 1"),
        ("max_phases", 0, "greater than or equal to 1"),
        ("count", "all", "'coverage' or 'nearest'"),
        ("membership", "median", "'max' or 'mean'"),
        ("sigma_join", "mean_mu", "'std_mu', 'keep', 'div10' or 'div2'"),
        ("sigma_join", "mean_sigma", "'std_mu', 'keep', 'div10' or 'div2'"),
        ("sigma_init", "prior", "'pow2' or 'constant'"),
        ("sigma_scale", 0.0, "greater than 0"),
        ("sigma_quantile", 1.5, "less than or equal to 1"),
        ("sigma_max", 0.0, "greater than or equal to"),
    ],
    ids=lambda value: str(value).replace(" ", "_"),
)
def test_an_illegal_value_is_refused_with_the_legal_ones(field: str, value: Any, legal: str):
    with pytest.raises(ValidationError, match=legal) as refused:
        FixingSettings.model_validate({field: value})
    assert field in str(refused.value)

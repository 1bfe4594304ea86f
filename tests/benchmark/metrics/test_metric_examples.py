"""The examples in the docstrings are run as they stand."""

import doctest
import importlib
import pkgutil

import pytest

import benchmark.metrics
import benchmark.statistics

MODULES = [f"benchmark.metrics.{module.name}" for module in pkgutil.iter_modules(benchmark.metrics.__path__)]


@pytest.mark.parametrize("name", [*MODULES, "benchmark.statistics"])
def test_examples_show_what_the_code_does(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0

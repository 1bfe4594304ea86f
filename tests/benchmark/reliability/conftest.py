"""Fixtures of the reliability tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reliability_cases import Bench, numbers_of, specs_of


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """An empty results folder; its processes end with the test."""
    made = Bench(tmp_path)
    yield made
    made.end()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The numbers of the well-behaved run when nothing interrupts it."""
    bench = Bench(tmp_path_factory.mktemp("undisturbed"))
    run = bench.folder(specs_of()[0])
    assert bench.worker(run).join() == 0
    return numbers_of(run)

"""A real Slurm of one node for the tests of this folder.

A test that takes `slurm_cluster` runs twice, without and with accounting; one that needs a certain kind says
`@pytest.mark.parametrize("slurm_cluster", [True], indirect=True)`. Where no Slurm can be had the tests are skipped with
the reason; BNNBENCH_REQUIRE_SLURM=1 makes them fail instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from slurm.cluster import Cluster, one_node_cluster, stop, why_not


def _require(accounting: bool) -> None:
    reason = why_not(accounting)
    if reason is None:
        return
    if os.environ.get("BNNBENCH_REQUIRE_SLURM") == "1":
        pytest.fail(f"BNNBENCH_REQUIRE_SLURM=1, but no Slurm: {reason}", pytrace=False)
    pytest.skip(f"no Slurm: {reason}")


@pytest.fixture(scope="session")
def require_slurm() -> Callable[[bool], None]:
    """Skips the test, or fails it, when no cluster (with accounting, if True is given) can be started here."""
    return _require


@contextmanager
def _short_folder() -> Iterator[Path]:
    """pytest's own folders have paths too long for sockets."""
    with TemporaryDirectory(prefix="bnn-slurm-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture
def slurm_folder() -> Iterator[Path]:
    """A folder for a cluster of the test's own, which is stopped and deleted whatever the test did."""
    _require(accounting=False)
    with _short_folder() as parent:
        yield parent / "c"
        stop(parent / "c")


@pytest.fixture(scope="session", params=[False, True], ids=["no-accounting", "accounting"])
def slurm_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster that all tests of the session share: leave its queue empty and its settings as they are."""
    _require(request.param)
    with _short_folder() as parent, one_node_cluster(parent / "c", request.param) as cluster:
        yield cluster

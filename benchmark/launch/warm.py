"""Imported by the server process that workers are forked from: what every run needs, done once per launch."""

from __future__ import annotations

from benchmark import phases, worker
from benchmark.provenance import code_digest

__all__ = ["phases", "worker"]

# Parses the sources of the suite, so that a worker has only those of its plugins left to read.
code_digest({"benchmark.worker"})

"""Networks, fits and oracle cases that the tests of `wfn` share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fixing_fits import WFN

METHOD, QUICK, fit = WFN.method, WFN.quick, WFN.fit
CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "oracles.json").read_text())["cases"]


def oracle(kind: str) -> list[dict[str, Any]]:
    """All cases of one kind."""
    found = [case for case in CASES if case["kind"] == kind]
    assert found
    return found

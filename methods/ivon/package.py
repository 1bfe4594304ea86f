"""The optional package `ivon-opt`, whose optimiser this method runs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from benchmark import MissingPackage


def ivon_class() -> Any:
    """The class `ivon.IVON`.

    Raises:
        MissingPackage: the package is not installed; says how to get it.
    """
    try:
        return import_module("ivon").IVON
    except ModuleNotFoundError as error:
        if error.name != "ivon":  # the package is there, and lacks something itself
            raise
        raise MissingPackage(
            "method 'ivon' needs the package ivon-opt (0.1.3 or newer, GPL-3.0-or-later), which is not installed here. "
            "Install it (pip install 'bnnbench[ivon]'), then retry the run."
        ) from error

"""What the data are called that experiments look at."""

from __future__ import annotations

from methods.hmc_rebasin.inputs import Material


def data_name(material: Material) -> str:
    """`val`; `train` where there are no validation data. Facts begin with it."""
    return "train" if material.problem.val is None else "val"


def data_title(material: Material) -> str:
    """The same for readers."""
    return "training data" if material.problem.val is None else "validation data"

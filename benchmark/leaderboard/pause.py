"""Building ten thousand records without the garbage collector walking them again and again."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def without_garbage_collection(function: Callable[P, R]) -> Callable[P, R]:
    """Pause the cyclic collector during a call that makes many long-lived objects and no cycles.

    The collector's full passes cost a third of the time of collecting 10,000 runs and free nothing.
    """

    @functools.wraps(function)
    def paused(*args: P.args, **kwargs: P.kwargs) -> R:
        if not gc.isenabled():
            return function(*args, **kwargs)
        gc.disable()
        try:
            return function(*args, **kwargs)
        finally:
            gc.enable()

    return paused

"""Environment variables for the time being."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def environment_of(values: Mapping[str, str | None]) -> Iterator[None]:
    """Set variables for this process and the children that it starts inside; afterwards they are what they were. None:
    left as it is, and restored all the same."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: value for name, value in values.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

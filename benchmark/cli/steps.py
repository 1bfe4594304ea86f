"""Showing long steps: a line with a spinner and the time on a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

PLAIN_SECONDS = 5.0
"""Elsewhere than on a terminal, a line at most that often."""

Say = Callable[[str], None]


@contextmanager
def step(title: str) -> Iterator[Say]:
    """A function that shows how far a step is; on standard error, so that standard output holds results alone."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _plain(title)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        shown = progress.add_task(title, total=None)
        yield lambda text: progress.update(shown, description=f"{title}  {text}")


def _plain(title: str) -> Say:
    last = [-PLAIN_SECONDS]

    def say(text: str) -> None:
        now = time.monotonic()
        if now - last[0] >= PLAIN_SECONDS:
            last[0] = now
            click.echo(f"{title}  {text}", err=True)

    return say

"""Stand-ins for the scheduler's commands: small scripts on a PATH of their own."""

import os
import shlex
from pathlib import Path


def stand_in(folder: Path, name: str, printed: str = "", said: str = "", code: int = 0, seconds: float = 0) -> None:
    """A command `name` that records its arguments (`called`), prints, says on its error output, and exits."""
    script = folder / name
    script.write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$*\" >> {shlex.quote(str(folder / name))}.called\n"
        f"printf '%s' {shlex.quote(printed)}\nprintf '%s\\n' {shlex.quote(said)} >&2\n"
        + (f"sleep {seconds}\n" if seconds else "")
        + f"exit {code}\n"
    )
    script.chmod(0o755)


def environment(folder: Path, **more: str) -> dict[str, str]:
    """An environment whose commands are those of `folder`, before the machine's own."""
    return {"PATH": f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin", **more}


def called(folder: Path, name: str) -> list[str]:
    """The arguments of every call so far."""
    try:
        return (folder / f"{name}.called").read_text().splitlines()
    except FileNotFoundError:
        return []

"""The suite's exceptions. Each carries what a reader needs to mend the cause; all inherit from `BenchError`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """Root of every error that the suite raises on purpose; its text is written for the user."""

    exit_code = 1


class ConfigError(BenchError):
    """A study, a flag or a setting is wrong. The text names the value, the legal values and the fix."""

    exit_code = 2


class UnknownNameError(ConfigError):
    """A name that no plugin registered. The text holds the nearest match and the legal names."""


class PluginError(BenchError):
    """A plugin could not be loaded or breaks its contract."""

    exit_code = 3


class EnvironmentProblem(BenchError):
    """The machine lacks something: a package, a device, room on the disk."""

    exit_code = 3


class MissingPackage(EnvironmentProblem):
    """A method needs an optional package that is not installed; the run becomes a row with status `skipped`. The text
    says how to install it."""


class NotApplicable(ConfigError):
    """A method cannot be had for this network or task at all; the run becomes a row with status `skipped`. The text
    says for which it can."""


class PredictionError(BenchError, ValueError):
    """Stored predictions break a rule of `predictions.npz` (first bad row named)."""


class CorruptBitstream(BenchError):
    """Bytes of a stored posterior are damaged, truncated or of an unknown format."""


class CorruptFile(BenchError):
    """A file of a run folder cannot be read back as it was written."""


class Diverged(BenchError):
    """Training produced non-finite numbers; the run becomes a row with status `diverged`."""


class Interrupted(BenchError):
    """A stop was asked for and the state is saved; the run goes on from there when started again."""


def nearest(value: str, legal: Iterable[str]) -> str:
    """`" Did you mean 'x'?"`, or an empty string when nothing in `legal` is close to `value`."""
    folded = {name.casefold(): name for name in legal}
    match = difflib.get_close_matches(value.casefold(), list(folded), n=1, cutoff=0.6)
    return f" Did you mean '{folded[match[0]]}'?" if match else ""


def unknown(kind: str, value: str, legal: Iterable[str], where: str = "", near: Iterable[str] = ()) -> str:
    """The sentence for an unknown name: value, nearest match, the first 20 legal names.

    near: spellings that may be suggested besides the legal names.
    """
    names = sorted(legal)
    shown = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    prefix = f"{where}: " if where else ""
    return f"{prefix}{kind} '{value}' is unknown.{nearest(value, [*names, *near])}\n  legal: {shown or '(none)'}"

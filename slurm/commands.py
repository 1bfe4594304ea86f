"""Calling the scheduler's commands: with a time limit, and with the ways of failing told apart."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence

from benchmark import EnvironmentProblem

UNREACHABLE = (
    "unable to contact slurm controller",
    "socket timed out",
    "connection refused",
    "connection timed out",
    "communication connection failure",
    "communications connection failure",
    "zero bytes were transmitted",
    "controller in standby mode",
    "no route to host",
    "problem talking to the database",
    "protocol authentication error",
    "munge encode failed",
    "could not establish a configuration source",
)
UNKNOWN_JOB = ("invalid job id specified",)
DISPLAY_VARIABLES = ("SQUEUE_", "SACCT_", "SCONTROL_", "SLURM_TIME_FORMAT")
"""A user's settings of what these commands show by default: they would filter rows and change columns."""


class SchedulerError(EnvironmentProblem):
    """A command of the scheduler failed.

    command: as it was called. code: its exit status, None when it did not end by itself. said: its error output.
    """

    advice = "`bnnbench doctor` looks at what this machine has of Slurm."

    def __init__(self, command: Sequence[str], code: int | None, said: str) -> None:
        self.command, self.code, self.said = tuple(command), code, said.strip()
        how = "did not answer" if code is None else f"failed (exit status {code})"
        super().__init__(f"`{shlex.join(command)}` {how}: {self.said or 'it said nothing'}\n  {self.advice}")


class CommandMissing(SchedulerError):
    """The command cannot be started on this machine."""

    advice = "Install Slurm's client commands, or log in where they are (a login node), and check PATH."


class SchedulerUnreachable(SchedulerError):
    """The command ran, and no daemon answered it: nothing is known about any job."""

    advice = (
        "Nothing is known of the jobs, and nothing was changed. Try again later; `scontrol ping` asks the controller."
    )


class UnknownJob(SchedulerError):
    """The controller answered that it does not know the job: it never existed, or it ended a while ago."""

    advice = "The controller forgets a job minutes after its end (MinJobAge); the run's own files still tell of it."


class UnreadableAnswer(EnvironmentProblem):
    """A command succeeded with text that is not of the documented form."""


def ask(command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None) -> str:
    """What the command prints, when it succeeds within `seconds`.

    environment: in place of this process's; either way without what a user set for his own listings.

    Raises:
        CommandMissing: it is not on PATH, or may not be executed.
        SchedulerUnreachable: no daemon answered it, or it took longer than `seconds`; it is killed then.
        UnknownJob: the controller does not know the job.
        SchedulerError: it failed in another way.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(os.environ if environment is None else environment),
            start_new_session=True,  # signals to this job or terminal do not cut a call short; and it dies as a group
            encoding="utf-8",
            errors="replace",
        )
    except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
        raise CommandMissing(command, None, f"{command[0]}: {error.strerror}") from error
    except OSError as error:  # no more processes or memory: says nothing about the scheduler
        raise SchedulerError(command, None, f"could not be started ({error.strerror})") from error
    with process:
        try:
            printed, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            _kill(process)
            raise SchedulerUnreachable(command, None, f"killed after {seconds:g} s") from error
        except BaseException:
            _kill(process)
            raise
    if process.returncode != 0:
        raise failure(command, process.returncode, said or printed)
    return printed


def failure(command: Sequence[str], code: int, said: str) -> SchedulerError:
    """The error that tells why a command ended with `code` and the message `said`."""
    text = said.lower()
    if any(mark in text for mark in UNREACHABLE):
        return SchedulerUnreachable(command, code, said)
    if any(mark in text for mark in UNKNOWN_JOB):
        return UnknownJob(command, code, said)
    return SchedulerError(command, code, said)


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in given.items() if not name.startswith(DISPLAY_VARIABLES)}
    # English messages; lists of array indices in full, which are cut after 64 characters otherwise.
    return {**kept, "LC_ALL": "C", "SLURM_BITSTR_LEN": "0"}


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()

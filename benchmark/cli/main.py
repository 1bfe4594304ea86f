"""`bnnbench`: verbs, exit codes, and errors as text for people.

Exit codes: 0 all well, 1 some runs failed, 2 wrong usage, 3 environment.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from benchmark.errors import BenchError, EnvironmentProblem, nearest

VERBS = {
    "list": "methods, tasks, networks, launchers and studies that are installed",
    "plan": "the matrix of a study: new, done, stale, failed, excluded",
    "run": "run what is missing of a study",
    "status": "how the runs stand",
    "logs": "what a run printed, and how it ended",
    "retry": "run failed runs again",
    "leaderboard": "the tables of a study",
    "rescore": "compute metrics anew from stored predictions",
    "data": "list, fetch and verify the data sets that tasks read",
    "doctor": "what this machine has, what it lacks, and how to mend it",
}


class Verbs(click.Group):
    """Loads `benchmark.cli.<verb>` when the verb is called, so that `list` does not pay for `run`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"benchmark.cli.{cmd_name}_")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in VERBS:
            raise click.UsageError(
                f"verb '{name}' is unknown.{nearest(name, VERBS)}\n  legal: {', '.join(VERBS)}", ctx=ctx
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="bnnbench")
def cli() -> None:
    """A comparative benchmark suite for Bayesian neural networks.

    \b
    bnnbench run quick            run a small study on digits
    bnnbench leaderboard quick    look at its tables
    """


def main(args: list[str] | None = None) -> Any:
    """Entry point of the command; never shows a traceback for an error that the user can mend."""
    try:
        code = cli.main(args=args, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BenchError as error:
        click.echo(f"bnnbench: {error}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.exceptions.Abort):
        click.echo("bnnbench: stopped. Start the same command again to go on.", err=True)
        sys.exit(130)
    except BrokenPipeError:  # the reader (`head`, a pager) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:  # text of the operating system: what, and which file
        click.echo(f"bnnbench: {error}", err=True)
        sys.exit(EnvironmentProblem.exit_code)
    sys.exit(code if isinstance(code, int) else 0)

"""`python -m slurm.cluster start|stop|status|env --dir DIR`: a private one-node Slurm from a shell."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote

from benchmark import BenchError, ConfigError
from slurm.cluster import attach, start, status, stop

_EXAMPLES = """examples:
  python -m slurm.cluster start --dir /tmp/cluster --accounting
  eval "$(python -m slurm.cluster env --dir /tmp/cluster)"     then: sbatch, squeue, srun, scancel
  python -m slurm.cluster stop --dir /tmp/cluster

A job in the partition `high` pushes one out of `low`, the default. Logs are in DIR/log, the settings in DIR/slurm.conf.
"""


def main(words: Sequence[str] | None = None) -> int:
    """Runs one verb; returns 0, 1 (status: something of the cluster is not running), or the exit code of an error."""
    given = _parser().parse_args(words)
    verbs: dict[str, Callable[[argparse.Namespace], int]] = {
        "start": _start,
        "stop": _stop,
        "status": _status,
        "env": _env,
    }
    try:
        return verbs[given.verb](given)
    except BenchError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m slurm.cluster",
        description="A private Slurm of one node, for tests and for trying things out.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="start|stop|status|env")
    for verb, does in (
        ("start", "start it and wait until it takes jobs"),
        ("stop", "end its daemons and jobs; the folder stays"),
        ("status", "what of it runs"),
        ("env", "a line for a shell that makes sbatch and the like speak to it"),
    ):
        one = verbs.add_parser(verb, help=does, description=does)
        one.add_argument("--dir", type=Path, required=True, help="the cluster's folder")
        if verb == "start":
            one.add_argument("--accounting", action="store_true", help="with a database, for sacct and limits")
            one.add_argument(
                "--set", action="append", default=[], metavar="KEY=VALUE", help="a line of slurm.conf; may be repeated"
            )
    return parser


def _start(given: argparse.Namespace) -> int:
    began = time.monotonic()
    cluster = start(given.dir, given.accounting, dict(_setting(text) for text in given.set))
    folder = quote(str(cluster.layout.folder))
    print(f"cluster {cluster.description.name} runs in {folder} (started in {time.monotonic() - began:.1f} s)")
    print(f'use it:   eval "$(python -m slurm.cluster env --dir {folder})"')
    print(f"stop it:  python -m slurm.cluster stop --dir {folder}")
    return 0


def _stop(given: argparse.Namespace) -> int:
    print("stopped" if stop(given.dir) else f"nothing of a cluster runs in {given.dir}")
    return 0


def _status(given: argparse.Namespace) -> int:
    cluster = attach(given.dir)
    running = status(given.dir)
    for name, process in running.items():
        port = cluster.description.ports[name]
        print(f"{name:<10} {f'running, pid {process.pid}, port {port}' if process else 'not running'}")
    if None in running.values():
        return 1
    said = cluster.run("sinfo", "--noheader", "--format=%P %T %C")
    print(f"partitions, state, CPUs allocated/idle/other/total:\n{said.stdout or said.stderr}".rstrip())
    return 0


def _env(given: argparse.Namespace) -> int:
    for name, value in attach(given.dir).environment.items():
        print(f"export {name}={quote(value)}")
    return 0


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ConfigError(f"--set '{text}' is no line of slurm.conf; legal: KEY=VALUE, as --set KillWait=30")
    return key, value


if __name__ == "__main__":
    sys.exit(main())

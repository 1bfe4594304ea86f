"""Options that several verbs share: where results are, and which study is meant (a file, or flags)."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from benchmark.datasets import DATA_ROOT, DEFAULT_ROOT, data_root, set_data_root
from benchmark.errors import ConfigError

if TYPE_CHECKING:
    from benchmark.plan import Plan
    from benchmark.store import Store
    from benchmark.study import Study

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_RESULTS = Path("results")


def results_option(function: F) -> F:
    """--results DIR."""
    return click.option(
        "--results",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_RESULTS,
        show_default=True,
        envvar="BNNBENCH_RESULTS",
        help="folder of runs and leaderboards (also BNNBENCH_RESULTS)",
    )(function)


def data_root_option(function: F) -> F:
    """--data-root DIR: for this command and all that it starts; the verb's function does not see it."""

    def lend(ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
        if path is None:
            return
        before = os.environ.get(DATA_ROOT)
        set_data_root(os.path.abspath(path))  # without '..': it is shown, and typed again

        def give_back() -> None:
            os.environ.pop(DATA_ROOT, None)
            if before is not None:
                os.environ[DATA_ROOT] = before

        ctx.call_on_close(give_back)

    return click.option(
        "--data-root",
        type=click.Path(file_okay=False, path_type=Path),
        callback=lend,
        is_eager=True,
        expose_value=False,
        envvar=DATA_ROOT,
        help=f"folder of all data sets (also {DATA_ROOT}; default: {DEFAULT_ROOT})",
    )(function)


def data_root_given() -> str:
    """`--data-root DIR` as it must follow in the next command; empty unless it was typed in this one."""
    ctx = click.get_current_context(silent=True)
    typed_here = ctx is not None and ctx.get_parameter_source("data_root") is ParameterSource.COMMANDLINE
    return f"--data-root {shlex.quote(str(data_root()))}" if typed_here else ""


def json_option(function: F) -> F:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="print JSON for programs")(function)


def plugin_option(function: F) -> F:
    """--plugin FILE, repeatable; loads the file before anything else is looked at."""

    def load(_ctx: click.Context, _param: click.Parameter, paths: tuple[Path, ...]) -> tuple[Path, ...]:
        from benchmark.registry import load_plugin_file

        for path in paths:
            load_plugin_file(path)
        return tuple(path.resolve() for path in paths)

    return click.option(
        "--plugin",
        "plugins",
        multiple=True,
        type=click.Path(dir_okay=False, path_type=Path),
        callback=load,
        is_eager=True,
        help="a Python file that defines a method, task or network (repeatable)",
    )(function)


def study_options(function: F) -> F:
    """STUDY and the flags that equal its keys; and --data-root, as planning a study looks for its data."""
    for option in reversed(
        (
            click.argument("study", required=False),
            click.option("--task", "tasks", multiple=True, help="as an entry of `tasks:` (repeatable)"),
            click.option("--network", "networks", multiple=True, help="as an entry of `networks:` (repeatable)"),
            click.option(
                "--method",
                "methods",
                multiple=True,
                help="as in `methods:`: map, or 'mean_field: {epochs: 4}'",
            ),
            click.option("--seeds", help="a number of seeds, or a list: 5, or '[0, 3]'"),
            click.option("--draws", type=int, help="protocol: draws per prediction"),
            click.option("--budget", type=float, help="protocol: factor on training lengths"),
            click.option("--attack", "attacks", multiple=True, help="protocol: pgd, or '{kind: pgd, epsilon: 0.03}'"),
            click.option("--shift", help="protocol: severities of corrupted test data, '[1, 3, 5]'"),
            click.option("--default", "defaults", multiple=True, help="as an entry of `defaults:`: 'map: {epochs: 5}'"),
            data_root_option,
        )
    ):
        function = option(function)
    return function


def study_from(
    study: str | None,
    tasks: tuple[str, ...],
    networks: tuple[str, ...],
    methods: tuple[str, ...],
    seeds: str | None,
    draws: int | None,
    budget: float | None,
    attacks: tuple[str, ...],
    shift: str | None,
    defaults: tuple[str, ...],
) -> Study:
    """The study that argument and flags describe; flags replace the keys of the file."""
    from benchmark.study import read_study, study_from_flags

    overrides: dict[str, Any] = {}
    for key, entries in (("tasks", tasks), ("networks", networks), ("methods", methods)):
        if entries:
            overrides[key] = [_yaml(f"--{key[:-1]}", entry) for entry in entries]
    if seeds is not None:
        overrides["seeds"] = _yaml("--seeds", seeds)
    protocol: dict[str, Any] = {
        name: value for name, value in (("draws", draws), ("budget", budget)) if value is not None
    }
    if attacks:
        protocol["attacks"] = [_yaml("--attack", entry) for entry in attacks]
    if shift is not None:
        protocol["shift"] = _yaml("--shift", shift)
    if protocol:
        overrides["protocol"] = protocol
    if defaults:
        overrides["defaults"] = _merged([_yaml("--default", entry) for entry in defaults])
    if study is not None:
        return read_study(study, overrides)
    if not overrides:
        from benchmark.studies import FOLDER

        names = ", ".join(sorted(path.stem for path in FOLDER.glob("*.yaml")))
        raise ConfigError(f"name a study ({names}, or a .yaml file), or give --task, --network and --method.")
    return study_from_flags(overrides)


def planned_from(flags: Mapping[str, Any], store: Store) -> Plan:
    """The plan of the study that argument and flags describe, for verbs that only look at its runs: where its data are
    not here, the plan it had when it was run; standard error says so."""
    from benchmark.recorded_plan import plan_or_recorded

    planned, remark = plan_or_recorded(study_from(**flags), store.root)
    if remark is not None:
        click.echo(f"bnnbench: {remark}", err=True)
    return planned


def _yaml(flag: str, text: str) -> Any:
    from benchmark.yamlfile import parse

    return parse(text, flag).value


def _merged(entries: list[Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            raise ConfigError(f"--default: expected 'method: {{setting: value}}', got {entry!r}.")
        merged.update(entry)
    return merged


FLAG_OF = {
    "tasks": "--task",
    "networks": "--network",
    "methods": "--method",
    "seeds": "--seeds",
    "draws": "--draws",
    "budget": "--budget",
    "attacks": "--attack",
    "shift": "--shift",
    "defaults": "--default",
}


def elsewhere(results: Path, plugins: tuple[Path, ...]) -> str:
    """`--results` and `--plugin` as they must follow in the next command; empty for the usual ones."""
    given = [] if results == DEFAULT_RESULTS else [f"--results {shlex.quote(str(results))}"]
    return " ".join([*given, *(f"--plugin {shlex.quote(str(plugin))}" for plugin in plugins)])


def typed(flags: Mapping[str, Any], results: Path, plugins: tuple[Path, ...]) -> str:
    """What names the same study again: the argument and flags that were typed, with the same results and plugins."""
    words = [shlex.quote(flags["study"])] if flags["study"] else []
    for key, flag in FLAG_OF.items():
        value = flags[key]
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        words += [f"{flag} {shlex.quote(str(each))}" for each in values]
    return " ".join(filter(None, [*words, elsewhere(results, plugins), data_root_given()]))


def store_at(results: Path) -> Store:
    """The store in a folder."""
    from benchmark.store import Store

    return Store(results)


def echo_json(value: Any) -> None:
    """Print a value as indented JSON."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))

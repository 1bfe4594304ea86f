"""`bnnbench data`: list, fetch and verify the data sets that tasks and networks read. Nothing else downloads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmark.cli.options import data_root_option, echo_json, json_option, plugin_option
from benchmark.datasets import data_root, prepare_command
from benchmark.errors import ConfigError, EnvironmentProblem, nearest, unknown

if TYPE_CHECKING:
    from benchmark.datasets import DataSet
    from benchmark.preparation import Standing

VERBS = ("list", "prepare", "verify")
COLOURS = {"ok": "green", "missing": "yellow", "partial": "red", "failed": "red"}


class DataVerbs(click.Group):
    """The verbs below `data`; an unknown one gets the nearest match."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in VERBS:
            raise click.UsageError(unknown("verb", f"data {args[0]}", [f"data {verb}" for verb in VERBS]), ctx=ctx)
        return super().resolve_command(ctx, args)


@click.group("data", cls=DataVerbs)
def command() -> None:
    """List, fetch and verify the data sets that tasks and networks read. Nothing else of bnnbench downloads.

    \b
    Examples:
      bnnbench data list
      bnnbench data prepare cifar10 --data-root /scratch/data
      bnnbench data verify study.yaml
    """


def _shared(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        json_option,
        plugin_option,
        data_root_option,
        click.option("--task", "tasks", multiple=True, help="as an entry of `tasks:` in a study (repeatable)"),
    ):
        function = option(function)
    return function


@command.command("list")
@click.argument("names", nargs=-1, metavar="[NAME | STUDY]...")
@_shared
def list_(names: tuple[str, ...], tasks: tuple[str, ...], plugins: tuple[Path, ...], as_json: bool) -> int:
    """Show data sets with state, size and place: those named, those of a study or a task, or all that are known.

    ok: every file is there with its size (`data verify` reads them); partial: some are not; missing: none is.

    \b
    Examples:
      bnnbench data list
      bnnbench data list study.yaml
      bnnbench data list --task imagenet --json
    """
    from benchmark.preparation import standing_of

    root, chosen = data_root(), _chosen(names, tasks)
    standings = [standing_of(each, root) for each in chosen.sets().values()]
    if as_json:
        echo_json({"data_root": str(root), "sets": [each.to_json() for each in standings], "broken": chosen.broken})
        return 0
    click.echo(f"data root: {root}{'' if root.is_dir() else '   (no such folder yet)'}")
    _print(standings)
    for line in chosen.broken:
        click.secho(f"{line}", fg="red")
    lacking = [each.data.name for each in standings if each.state != "ok" and not each.data.by_hand]
    if lacking and chosen.named:
        click.echo(f"To fetch what is missing: {prepare_command(*lacking)}")
    return 0


@command.command("prepare")
@click.argument("names", nargs=-1, metavar="[NAME | STUDY]...")
@_shared
def prepare_(names: tuple[str, ...], tasks: tuple[str, ...], plugins: tuple[Path, ...], as_json: bool) -> int:
    """Fetch what is missing of data sets, or of all that a study or a task reads. Interrupted, it goes on when started
    again; when one fails, the others are fetched, and the exit code is 3. Files of a data set that is named are
    compared with the published checksums, where there are some; others are moved to NAME.damaged and fetched again.

    \b
    Examples:
      bnnbench data prepare cifar10 mnist
      bnnbench data prepare study.yaml --data-root /scratch/data
      bnnbench data prepare --task cifar100
    """
    chosen = _chosen(names, tasks)
    if not chosen.named:
        raise ConfigError(f"name what to prepare: a study, or data sets.\n  legal: {', '.join(chosen.sets())}")
    done: dict[str, str | None] = {}
    sets: dict[str, DataSet] = {}
    # Once a task's files are there, the study may turn out to read more (see `data_of`).
    while todo := {name: each for name, each in chosen.sets().items() if name not in done}:
        sets |= todo
        done |= _prepared(todo, as_json, chosen.by_name)
    failed = {name: text for name, text in done.items() if text is not None}
    if as_json:
        entries = [{"name": name, "state": "ok" if text is None else "failed", "message": text or ""}
                   for name, text in done.items()]  # fmt: skip
        echo_json({"data_root": str(data_root()), "sets": entries})
    elif not done:
        click.echo("Nothing to prepare: no data set is read.")
    elif failed:
        retried = [name for name in failed if not sets[name].by_hand]
        again = f" Again: {prepare_command(*retried)}" if retried else ""
        click.echo(f"{len(failed)} of {len(done)} failed: {', '.join(failed)}.{again}")
    return EnvironmentProblem.exit_code if failed else 0


@command.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME | STUDY]...")
@_shared
def verify_(names: tuple[str, ...], tasks: tuple[str, ...], plugins: tuple[Path, ...], as_json: bool) -> int:
    """Read every file of data sets and compare checksums; exit code 1 when something is wrong. Of all known data sets,
    unless some are named, those that are on disk.

    \b
    Examples:
      bnnbench data verify
      bnnbench data verify cifar10
      bnnbench data verify study.yaml --json
    """
    from benchmark.cli.steps import step
    from benchmark.preparation import shortened, size_text, standing_of, verify

    root, chosen = data_root(), _chosen(names, tasks)
    sets = [each for each in chosen.sets().values() if chosen.named or standing_of(each, root).state != "missing"]
    found: dict[str, tuple[str, ...]] = {}
    for each in sets:
        with step(each.name) as say:
            found[each.name] = verify(each, root, say)
        if not as_json:
            _line("failed" if found[each.name] else "ok", each.name, f"{size_text(each.size)}  {each.folder(root)}")
            _detail(shortened(found[each.name]))
            _detail(each.manual if found[each.name] and each.by_hand else "")
    bad = [name for name, problems in found.items() if problems]
    if as_json:
        entries = [{"name": name, "state": "failed" if lines else "ok", "problems": list(lines)}
                   for name, lines in found.items()]  # fmt: skip
        echo_json({"data_root": str(root), "sets": entries})
    elif not sets:
        click.echo(f"No data set is below {root}. What there is to have: bnnbench data list")
    elif bad:
        click.echo(f"{len(bad)} of {len(sets)} are wrong.{_mending([each for each in sets if each.name in bad], root)}")
    return 1 if bad else 0


def _mending(sets: Sequence[DataSet], root: Path) -> str:
    """What to do about data sets that `verify` refuses: `prepare` mends what has the wrong size, or another checksum
    than the published one; of anything else it sees nothing, until the files are gone."""
    from benchmark.preparation import prepare_sees

    seen = [each.name for each in sets if not each.by_hand and prepare_sees(each, root)]
    unseen = [each.name for each in sets if not each.by_hand and each.name not in seen]
    lines = [f"To mend {'them' if len(sets) > 1 else 'it'}: {prepare_command(*seen)}"] if seen else []
    if unseen:
        lines.append(f"Of {', '.join(unseen)}, remove the files named above, then: {prepare_command(*unseen)}")
    return "".join(f"\n{line}" for line in lines)


@dataclass
class _Chosen:
    """What a command is about. Asked again, as a study's list may grow while its data are fetched."""

    by_name: Mapping[str, DataSet]
    studies: Sequence[Any] = ()
    tasks: Sequence[Any] = ()
    broken: list[str] = field(default_factory=list)
    named: bool = True

    def sets(self) -> dict[str, DataSet]:
        from benchmark.needed_data import data_of, data_of_task

        found = dict(self.by_name)
        for item in self.tasks:
            found |= {each.name: each for each in data_of_task(item.name, item.config, shift=True)}
        for study in self.studies:
            found |= {each.name: each for each in data_of(study)}
        return found


def _chosen(names: Sequence[str], tasks: Sequence[str]) -> _Chosen:
    """Data sets and studies by name, and tasks as entries of a study; all known data sets when nothing is named."""
    from benchmark.needed_data import data_set_called, known_data
    from benchmark.study import read_study

    broken: list[str] = []
    known = known_data(broken)
    if not names and not tasks:
        return _Chosen(known, broken=broken, named=False)
    sets: dict[str, DataSet] = {}
    studies = []
    for name in names:
        if (found := data_set_called(name, known)) is not None:
            sets[found.name] = found
        elif _is_study(name):
            studies.append(read_study(name))
        else:
            raise ConfigError(_neither(name, known))
    return _Chosen(sets, studies, [_task(entry) for entry in tasks])


def _is_study(name: str) -> bool:
    return Path(name).suffix in (".yaml", ".yml") or name in _built_in_studies()


def _built_in_studies() -> list[str]:
    from benchmark.studies import FOLDER

    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def _neither(name: str, known: Mapping[str, DataSet]) -> str:
    studies = _built_in_studies()
    return (
        f"'{name}' is neither a data set nor a study.{nearest(name, [*known, *studies])}\n"
        f"  data sets: {', '.join(known) or '(no installed task reads files)'}\n"
        f"  studies: {', '.join(studies)}, or the path of a .yaml file"
    )


def _task(entry: str) -> Any:
    """An `Item` from an entry of `tasks:`, a name or `name: {setting: value}`."""
    from benchmark.registry import TASKS
    from benchmark.study import make_item
    from benchmark.yamlfile import parse

    value = parse(entry, "--task").value
    if isinstance(value, dict) and len(value) == 1:
        ((name, given),) = value.items()
    else:
        name, given = value, None
    if not isinstance(name, str) or not isinstance(given, dict | None):
        raise ConfigError(f"--task: expected a name or 'name: {{setting: value}}', got {entry!r}.")
    return make_item(TASKS, name, given or {}, {})


def _prepared(sets: Mapping[str, DataSet], quiet: bool, named: Mapping[str, DataSet]) -> dict[str, str | None]:
    """Fetch each, and say so; by name, what went wrong, or None. Files of the sets that are `named` are read, and moved
    aside where they are not the published ones: a study that is prepared again answers without reading its data."""
    from benchmark.cli.steps import step
    from benchmark.preparation import prepare, set_aside, size_text, standing_of

    root = data_root()
    stuck = {}
    for name in [name for name in sets if name in named]:
        with step(name) as say:
            if text := set_aside(sets[name], root, say if quiet else click.echo):
                stuck[name] = text
    standings = [standing_of(each, root) for each in sets.values()]
    todo = [each for each in standings if each.state != "ok" or each.data.name in stuck]
    if not quiet:
        _print([each for each in standings if each not in todo])
        if todo:
            click.echo(_announcement(todo, root))
    outcome: dict[str, str | None] = {each.data.name: None for each in standings}
    for number, each in enumerate(todo, start=1):
        with step(f"{number}/{len(todo)}  {each.data.name}") as say:
            outcome[each.data.name] = text = stuck.get(each.data.name) or prepare(each.data, root, say)
        if not quiet:
            _line("failed" if text else "ok", each.data.name, f"{size_text(each.data.size)}  {each.folder}")
            _detail(text or "")
    return outcome


def _announcement(todo: Sequence[Standing], root: Path) -> str:
    from benchmark.preparation import free_bytes, size_text

    download, size = sum(each.data.download for each in todo), sum(each.data.size for each in todo)
    number = f"{len(todo)} data set{'' if len(todo) == 1 else 's'}"
    return (
        f"{number} to prepare below {root}: at most {size_text(download)} to download, about {size_text(size)} on disk "
        f"when done; {size_text(free_bytes(root))} free"
    )


def _print(standings: Sequence[Standing]) -> None:
    from benchmark.preparation import shortened, size_text

    for each in standings:
        source = f", {size_text(each.data.download)} to download" if each.data.download and each.state != "ok" else ""
        _line(each.state, each.data.name, f"{size_text(each.data.size)}{source}  {each.folder}  {each.data.title}")
        _detail(shortened(each.problems) if each.state == "partial" else "")
        _detail(each.data.manual if each.state != "ok" and not each.data.download else "")


def _line(state: str, name: str, text: str) -> None:
    click.echo(f"{click.style(f'{state:<8}', fg=COLOURS[state])} {name:<20} {text}")


def _detail(text: str) -> None:
    for line in text.splitlines():
        click.echo(f"{'':<8}   {line}")

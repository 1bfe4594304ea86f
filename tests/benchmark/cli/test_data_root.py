"""Where a run reads its data: what the launcher saw, whatever folder or machine the worker is started in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.cli.main import main
from benchmark.launch.local import fair_loaders
from benchmark.operation import Operation
from benchmark.store import Store
from benchmark.worker import work

HERE = Path(__file__).parent
PLUGINS = [HERE / "plugins" / "shelf.py", HERE.parent / "reliability" / "plugins" / "tiny.py"]
STUDY = ["--task", "shelf", "--network", "tinynet", "--draws", "4", "--method", "tiny_base"]
INLINE = ["--launcher", "inline: {latency: 'off'}"]
Bench = Callable[..., tuple[int, str]]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Bench:
    """Two folders, `first` and `second`; the data are prepared below `first`, which is the current one."""
    for name in ("BNNBENCH_DATA", "BNNBENCH_LOADERS", "SHELF_FAILS", "TINY_BASE_FAILS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BNNBENCH_RESULTS", str(tmp_path / "results"))
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "first")

    def call(*arguments: str) -> tuple[int, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*arguments, *(word for plugin in PLUGINS for word in ("--plugin", str(plugin)))])
        code = ended.value.code
        return (code if isinstance(code, int) else 0), "".join(capfd.readouterr())

    assert call("data", "prepare", "shelf-books")[0] == 0
    return call


def handed_over(results: Path) -> dict[str, object]:
    store = Store(results)
    (run_id,) = store.ids()
    settings: dict[str, object] = json.loads(store.folder(run_id).file("operation.json").read_text())
    return settings


def test_a_worker_reads_what_its_launcher_saw_wherever_it_starts(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELF_FAILS", "1")
    assert bench("run", *STUDY, *INLINE)[0] == 1
    store = Store(tmp_path / "results")
    run = store.folder(store.ids()[0])
    monkeypatch.delenv("SHELF_FAILS")
    monkeypatch.chdir("/")
    assert "BNNBENCH_DATA" not in os.environ
    assert work(str(run.path)) == 0
    assert run.state().name == "ok"


def test_a_retried_run_reads_what_it_read_before(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELF_FAILS", "1")
    assert bench("run", *STUDY, *INLINE)[0] == 1
    monkeypatch.delenv("SHELF_FAILS")
    monkeypatch.chdir(tmp_path / "second")
    code, out = bench("retry", "--failed", *INLINE)
    assert (code, handed_over(tmp_path / "results")["data_root"]) == (0, str(tmp_path / "first" / "data")), out
    assert "BNNBENCH_DATA" not in os.environ


def test_a_retry_reads_elsewhere_when_told(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELF_FAILS", "1")
    assert bench("run", *STUDY, *INLINE)[0] == 1
    monkeypatch.delenv("SHELF_FAILS")
    code, out = bench("retry", "--failed", "--data-root", str(tmp_path / "second"), *INLINE)
    assert code == 3
    assert str(tmp_path / "second" / "shelf-books" / "books.bin") in out
    assert handed_over(tmp_path / "results")["data_root"] != str(tmp_path / "second"), "nothing was started there"


def test_a_study_started_in_another_folder_looks_for_its_data_there(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "second")
    code, out = bench("run", *STUDY, *INLINE)
    assert code == 3
    assert f"below the data root {tmp_path / 'second' / 'data'} (the default; BNNBENCH_DATA or --data-root" in out
    assert "To mend it: bnnbench data prepare shelf-books" in out
    assert not (tmp_path / "results").exists()
    code, out = bench("run", *STUDY, *INLINE, "--data-root", "../first/data")
    assert code == 0
    assert "The tables: bnnbench leaderboard --task shelf --network tinynet --method tiny_base --draws 4" in out
    assert out.rstrip().endswith(f"--data-root {tmp_path / 'first' / 'data'}")


def test_a_launcher_has_no_data_root_of_its_own(bench: Bench) -> None:
    code, out = bench("run", *STUDY, "--launcher", "inline: {data_root: /elsewhere}")
    assert code == 2
    assert "launcher 'inline': 'data_root' is no setting of a launcher; give --data-root DIR or BNNBENCH_DATA." in out


def test_settings_are_lent_to_the_environment_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNNBENCH_DATA", "/before")
    monkeypatch.delenv("BNNBENCH_LOADERS", raising=False)
    with Operation(data_root="/during", loaders=3).in_environment():
        assert (os.environ["BNNBENCH_DATA"], os.environ["BNNBENCH_LOADERS"]) == ("/during", "3")
    assert (os.environ["BNNBENCH_DATA"], os.environ.get("BNNBENCH_LOADERS")) == ("/before", None)


def test_loaders_are_handed_over_as_typed(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench("run", *STUDY, *INLINE)[0] == 0
    assert handed_over(tmp_path / "results")["loaders"] is None
    assert bench("run", *STUDY, *INLINE, "--loaders", "2", "--rerun", "all")[0] == 0
    assert handed_over(tmp_path / "results")["loaders"] == 2
    monkeypatch.setenv("BNNBENCH_LOADERS", "0")
    assert bench("run", *STUDY, *INLINE, "--rerun", "all")[0] == 0
    assert handed_over(tmp_path / "results")["loaders"] == 0


def test_runs_side_by_side_share_the_cores_between_their_loaders() -> None:
    assert [fair_loaders(cores=16, workers=workers, threads=1) for workers in (1, 2, 4, 16, 32)] == [15, 7, 3, 0, 0]
    assert fair_loaders(cores=256, workers=1, threads=1) == 16
    assert fair_loaders(cores=16, workers=4, threads=4) == 0


def test_shift_is_a_key_of_the_protocol(bench: Bench) -> None:
    assert bench("data", "prepare", "shelf-dusty")[0] == 0
    code, out = bench("plan", *STUDY, "--shift", "[5, 1]", "--json")
    assert code == 0, out
    assert json.loads(out)["runs"][0]["spec"]["protocol"]["shift"] == [1, 5]
    code, out = bench("plan", *STUDY, "--shift", "[0]")
    assert (code, "greater than or equal to 1" in out) == (2, True)

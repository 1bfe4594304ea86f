"""`bnnbench data`: what is listed, fetched and verified, what is said when it goes wrong, and the exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.cli.main import main

FOLDER = Path(__file__).parent / "plugins"
SHELF = FOLDER / "shelf.py"
PROGRAM = str(Path(sys.executable).with_name("bnnbench"))
Answer = tuple[int, str, str]
Data = Callable[..., Answer]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BNNBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


@pytest.fixture
def data(root: Path, capfd: pytest.CaptureFixture[str]) -> Data:
    def call(*arguments: str) -> Answer:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["data", *arguments, "--plugin", str(SHELF)])
        code = ended.value.code
        return (code if isinstance(code, int) else 0, *capfd.readouterr())

    return call


def study(folder: Path, extra: str = "") -> str:
    path = folder / "reading.yaml"
    path.write_text(f"tasks: [shelf]\nnetworks: [shelfnet]\nmethods: [map]\n{extra}")
    return str(path)


def test_the_list_names_every_known_set_with_its_state_and_place(data: Data, root: Path) -> None:
    assert data("prepare", "shelf-books")[0] == 0
    (root / "shelf-dusty").mkdir()
    (root / "shelf-dusty" / "books.bin").write_bytes(b"half")
    code, out, _ = data("list")
    lines = {line.split()[1]: line for line in out.splitlines() if len(line.split()) > 2}
    assert code == 0
    assert f"data root: {root}" in out
    assert lines["shelf-books"].split()[0] == "ok"
    assert lines["shelf-dusty"].split()[0] == "partial"
    assert "3.84 kB" in lines["shelf-books"]
    assert str(root / "shelf-books") in lines["shelf-books"]
    assert f"{root / 'shelf-dusty' / 'books.bin'} has 4 bytes, expected 3840" in out


def test_the_list_of_a_task_is_that_of_its_settings(data: Data) -> None:
    _, out, _ = data("list", "--task", "shelf: {extra: true}", "--json")
    sets = {each["name"]: each for each in json.loads(out)["sets"]}
    assert sorted(sets) == ["shelf-books", "shelf-dusty", "shelf-extra"]
    assert sets["shelf-extra"]["manual"] == "Ask the librarian, and put books.bin there."
    assert {each["state"] for each in sets.values()} == {"missing"}


def test_a_study_lists_shift_only_where_its_protocol_asks(data: Data, tmp_path: Path) -> None:
    plain = json.loads(data("list", study(tmp_path), "--json")[1])["sets"]
    shifted = json.loads(data("list", study(tmp_path, "protocol: {shift: [1, 5]}"), "--json")[1])["sets"]
    assert [each["name"] for each in plain] == ["shelf-books"]
    assert [each["name"] for each in shifted] == ["shelf-books", "shelf-dusty"]


def test_preparing_a_study_goes_on_with_what_its_networks_need_once_the_task_is_there(
    data: Data, root: Path, tmp_path: Path
) -> None:
    code, out, _ = data("prepare", study(tmp_path))
    assert code == 0
    assert (root / "shelf-books" / "books.bin").is_file()
    assert (root / "weights-shelfnet-2" / "books.bin").is_file()
    assert "1 data set to prepare below" in out
    assert "at most 3.84 kB to download, about 3.84 kB on disk" in out
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    code, out, _ = data("prepare", study(tmp_path))
    assert (code, out.count("ok ")) == (0, 2)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_one_failure_keeps_no_other_from_being_fetched(data: Data, root: Path) -> None:
    code, out, err = data("prepare", "shelf-lost", "shelf-huge", "shelf-books")
    assert code == 3
    assert (root / "shelf-books" / "books.bin").is_file()
    assert "cannot be fetched. Ask the librarian" in out
    assert "it needs 1e+06 TB" in out
    assert "left. Free some space" in out
    assert "2 of 3 failed: shelf-lost, shelf-huge. Again: bnnbench data prepare shelf-lost shelf-huge" in out
    assert "Traceback" not in out + err


def test_the_outcome_of_every_set_is_in_the_json(data: Data) -> None:
    code, out, _ = data("prepare", "shelf-lost", "shelf-books", "--json")
    sets = {each["name"]: each for each in json.loads(out)["sets"]}
    assert code == 3
    assert sets["shelf-books"] == {"name": "shelf-books", "state": "ok", "message": ""}
    assert "cannot be fetched" in sets["shelf-lost"]["message"]


def test_a_study_that_reads_no_files_has_nothing_to_prepare(data: Data, root: Path) -> None:
    code, out, _ = data("prepare", "quick")
    assert (code, out) == (0, "Nothing to prepare: no data set is read.\n")
    assert not root.exists()


def test_verifying_finds_what_sizes_do_not_tell(data: Data, root: Path) -> None:
    assert data("prepare", "shelf-books", "shelf-dusty")[0] == 0
    assert data("verify")[0] == 0
    file = root / "shelf-books" / "books.bin"
    file.write_bytes(bytes(file.stat().st_size))
    code, out, _ = data("verify")
    assert code == 1
    assert f"failed   shelf-books          3.84 kB  {file.parent}\n" in out
    assert f"{file} has another checksum" in out
    assert "ok       shelf-dusty" in out
    assert (
        "1 of 2 are wrong.\nOf shelf-books, remove the files named above, then: bnnbench data prepare shelf-books"
        in out
    )
    assert json.loads(data("verify", "--json")[1])["sets"][0]["state"] == "failed"


CHECKED = ("--plugin", str(FOLDER / "checked.py"))


def test_the_advice_of_verify_works(data: Data, root: Path) -> None:
    names = ("checked-sum", "unchecked")
    assert data("prepare", *names, *CHECKED)[0] == 0
    for name in names:
        (root / name / "content.bin").write_bytes(b"damaged")
    code, out, _ = data("verify", *names, *CHECKED)
    assert code == 1
    assert "2 of 2 are wrong.\nTo mend them: bnnbench data prepare checked-sum\n" in out
    assert "Of unchecked, remove the files named above, then: bnnbench data prepare unchecked\n" in out
    code, out, _ = data("prepare", "checked-sum", *CHECKED)
    assert code == 0
    assert "is not the published file: moved to" in out
    assert (root / "checked-sum" / "content.bin.damaged").read_bytes() == b"damaged"
    (root / "unchecked" / "content.bin").unlink()
    assert data("prepare", "unchecked", *CHECKED)[0] == 0
    assert data("verify", *names, *CHECKED)[0] == 0


def test_preparing_a_task_does_not_read_what_is_there(data: Data, root: Path) -> None:
    assert data("prepare", "checked-sum", "unchecked", *CHECKED)[0] == 0
    file = root / "checked-sum" / "content.bin"
    file.write_bytes(b"damaged")
    data("prepare", "--task", "checked", *CHECKED)
    assert file.read_bytes() == b"damaged"


def test_no_command_is_named_for_what_only_the_user_can_bring(data: Data, root: Path) -> None:
    code, out, _ = data("prepare", "own-file", "unchecked", *CHECKED)
    assert code == 0, out
    (root / "own-file" / "content.bin").write_bytes(b"damaged")
    code, out, _ = data("verify", "own-file", *CHECKED)
    assert (code, "It is a file of yours: put it there." in out, "data prepare" in out) == (1, True, False)
    (root / "own-file" / "content.bin").unlink()
    _, out, _ = data("list", "own-file", *CHECKED)
    assert (code, "It is a file of yours: put it there." in out, "data prepare" in out) == (1, True, False)


def test_missing_data_name_the_command_with_the_root_that_was_typed(
    data: Data, root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = ["plan", "--task", "shelf", "--network", "shelfnet", "--method", "map", "--plugin", str(SHELF)]
    answers = {}
    for typed in ([], ["--data-root", "else where"], ["--data-root", str(root)]):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*plan, *typed])
        assert ended.value.code == 3
        answers[" ".join(typed[1:])] = capfd.readouterr().err
    assert "bnnbench data prepare shelf-books\n" in answers[""]
    assert f"bnnbench data prepare shelf-books --data-root '{tmp_path / 'else where'}'\n" in answers["else where"]
    assert "bnnbench data prepare shelf-books\n" in answers[str(root)]  # which the environment says anyway


def test_verifying_misses_only_what_was_named(data: Data, root: Path) -> None:
    code, out, _ = data("verify")
    assert (code, "No data set is below" in out) == (0, True)
    code, out, _ = data("verify", "shelf-books")
    assert code == 1
    assert f"{root / 'shelf-books' / 'books.bin'} is missing" in out


def test_a_set_that_cannot_be_looked_at_is_told_and_hides_none(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELF_UNREADABLE", "1")
    code, out, _ = data("list", "shelf-lost", "shelf-books")
    assert code == 0
    assert "partial  shelf-lost" in out
    assert "Permission denied" in out
    assert "missing  shelf-books" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prepare", "shelf-bokos"], ["neither a data set nor a study", "Did you mean 'shelf-books'", "shelf-dusty"]),
        (["prepare"], ["name what to prepare", "shelf-books"]),
        (["verify", "absent.yaml"], ["study 'absent.yaml'", "no such file"]),
        (["list", "--task", "shlef"], ["task 'shlef' is unknown", "Did you mean 'shelf'"]),
        (["list", "--task", "shelf: {extar: true}"], ["setting 'extar' is unknown", "'extra'"]),
        (["perpare"], ["verb 'data perpare' is unknown", "Did you mean 'data prepare'"]),
    ],
)
def test_wrong_words_get_the_legal_ones(data: Data, root: Path, arguments: list[str], words: list[str]) -> None:
    code, out, err = data(*arguments)
    assert code == 2, out + err
    for word in words:
        assert word in err
    assert not root.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_preparation_leaves_no_half_file(root: Path, number: int) -> None:
    command = [PROGRAM, "data", "prepare", "shelf-slow", "--plugin", str(SHELF)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        folder, deadline = root / "shelf-slow", time.monotonic() + 30
        while not (folder.is_dir() and any(each.stat().st_size for each in folder.iterdir())):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, number)
        out = process.communicate()[0]
    assert not (folder / "books.bin").exists()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "Start the same command again to go on." in out
        assert list(folder.iterdir()) == []


def test_a_root_that_is_typed_is_typed_again(data: Data, tmp_path: Path) -> None:
    code, out, _ = data("prepare", "shelf-lost", "--data-root", "elsewhere")
    assert code == 3
    assert f"Again: bnnbench data prepare shelf-lost --data-root {tmp_path / 'elsewhere'}" in out
    assert os.environ["BNNBENCH_DATA"] == str(tmp_path / "data")


def test_a_broken_plugin_is_a_line_below_the_list(data: Data, capfd: pytest.CaptureFixture[str]) -> None:
    command = [PROGRAM, "data", "list", "--plugin", str(SHELF), "--plugin", str(FOLDER / "broken.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert "shelf-books" in done.stdout
    assert "task 'forgotten': TypeError: Can't instantiate abstract class Forgotten" in done.stdout


def test_listing_imports_no_torch(root: Path) -> None:
    script = (
        "import sys; from benchmark.cli.main import cli; cli.main(['data', 'list'], standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0

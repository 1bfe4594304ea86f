"""A file is whole or absent: failing writers, full disks, readers beside a writer."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.errors import CorruptFile
from benchmark.files import canonical_json, read_json, write_bytes, write_json, write_via

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_what_is_written_is_read_back(tmp_path):
    write_json(tmp_path / "x.json", {"a": [1, 2.5, None, "ä\n"]})
    assert read_json(tmp_path / "x.json") == {"a": [1, 2.5, None, "ä\n"]}
    write_bytes(tmp_path / "x.bin", b"\x00\xff" * 1000, durable=False)
    assert (tmp_path / "x.bin").read_bytes() == b"\x00\xff" * 1000
    assert names(tmp_path) == ["x.bin", "x.json"]


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path, failure, old):
    path = tmp_path / "x"
    if old is not None:
        path.write_bytes(old)

    def write(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise failure

    with pytest.raises(type(failure)):
        write_via(path, write)
    assert names(tmp_path) == ([] if old is None else ["x"])
    assert old is None or path.read_bytes() == old


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"nll": math.nan})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"path": path})
    assert read_json(path) == 1
    assert names(tmp_path) == ["x.json"]


def test_writers_of_one_process_do_not_share_a_temporary(tmp_path):
    seen = []

    def write(temporary: Path) -> None:
        seen.append(temporary)
        if len(seen) == 1:
            write_via(tmp_path / "x", write)
        temporary.write_bytes(b"%d" % len(seen))

    write_via(tmp_path / "x", write)
    assert len(set(seen)) == 2
    assert names(tmp_path) == ["x"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from benchmark.errors import EnvironmentProblem
from benchmark.files import write_bytes
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
def write():
    if sys.argv[2] == "bytes":
        write_bytes(path, bytes(1_000_000))
    elif sys.argv[2] == "numpy":
        import numpy
        from benchmark.files import write_via
        write_via(path, lambda temporary: numpy.savez(open(temporary, "wb"), x=numpy.ones(500_000)))
    else:
        import torch
        from benchmark.checkpoint import save_tree
        save_tree(path, {"weights": torch.ones(500_000)})
try:
    write()
except EnvironmentProblem as problem:
    print(problem)
"""


@pytest.mark.parametrize("writer", ["bytes", "numpy", "checkpoint"])
def test_a_full_disk_is_an_environment_problem_that_names_the_path_and_the_room(tmp_path, writer):
    """The limit on file sizes stands in for a quota; the writer is told so by the same system call."""
    path = tmp_path / "posterior.bin"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, path, writer], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"No room to write {path} (")
    assert "MiB free). Nothing was half-written." in done.stdout
    assert names(tmp_path) == ["posterior.bin"]
    assert path.read_bytes() == b"old"


def test_readers_never_see_a_part_while_a_writer_in_another_process_writes(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"i": 0, "body": "0" * 100})
    code = """
        import sys
        from pathlib import Path
        from benchmark.files import write_json
        for i in range(1, 400):
            write_json(Path(sys.argv[1]), {"i": i, "body": str(i % 10) * (i * 300)}, durable=False)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), path]) as writer:
        seen = [0]
        while writer.poll() is None:
            value = read_json(path)
            assert set(value["body"]) == {str(value["i"] % 10)}
            assert len(value["body"]) in (100, value["i"] * 300)
            seen.append(value["i"])
    assert writer.returncode == 0
    assert seen == sorted(seen)
    assert len(set(seen)) > 3
    assert names(tmp_path) == ["x.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"{'a': 1}", b"\xff\xfe", b"[1, 2"])
def test_a_damaged_json_file_is_named(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(CorruptFile, match=r"x\.json is not valid JSON"):
        read_json(tmp_path / "x.json")


def test_an_absent_file_is_not_a_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "x.json")


def test_writing_into_an_absent_folder_is_reported_as_that(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_bytes(tmp_path / "absent" / "x", b"")


def test_a_written_file_has_the_rights_of_any_new_file(tmp_path):
    write_bytes(tmp_path / "x", b"")
    (tmp_path / "y").touch()
    assert os.stat(tmp_path / "x").st_mode == os.stat(tmp_path / "y").st_mode


@settings(deadline=None)
@given(json_values)
def test_canonical_json_is_one_text_per_value_that_reads_back(value):
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


def test_canonical_json_is_pinned():
    assert canonical_json({"b": [1, 1.0, None, True], "a": "ä\n"}) == '{"a":"ä\\n","b":[1,1.0,null,true]}'
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="Out of range float"):
            canonical_json({"x": bad})
    with pytest.raises(TypeError):
        canonical_json({"x": {1, 2}})

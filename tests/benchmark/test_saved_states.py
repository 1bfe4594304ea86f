"""Checkpoints: what goes in comes out, damage is found, nothing is ever unpickled."""

from __future__ import annotations

import logging
import math
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.checkpoint import CheckpointFolder, PeriodicCheckpoints, load_tree, save_tree
from benchmark.errors import CorruptFile, Interrupted


def round_trip(tmp_path: Path, tree: Any) -> Any:
    save_tree(tmp_path / "tree", tree)
    return load_tree(tmp_path / "tree")


def same(one: Any, other: Any) -> bool:
    """Equal in type, structure and every bit."""
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor)
            and (one.dtype, one.shape) == (other.dtype, other.shape)
            and one.contiguous().view(-1).view(torch.uint8).equal(other.contiguous().view(-1).view(torch.uint8))
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or (one != one and other != other))


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool])
trees = st.recursive(
    plain | dtypes.map(lambda dtype: torch.ones(2, dtype=dtype)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(-3, 3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(trees)
def test_a_tree_comes_back_as_it_was(tmp_path_factory, tree):
    assert same(tree, round_trip(tmp_path_factory.getbasetemp(), tree))


def test_keys_keep_their_types_and_order_and_tuples_become_lists(tmp_path):
    tree = {3: "int", "3": "text", None: [], 0.5: (1, (2, 3)), True: {}, "$": {"$": "dict", "v": 1}}
    found = round_trip(tmp_path, tree)
    assert [(type(key), key) for key in found] == [(type(key), key) for key in tree]
    assert found[0.5] == [1, [2, 3]]
    assert found["$"] == {"$": "dict", "v": 1}


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.5),
        torch.tensor(7),
        torch.empty(0),
        torch.empty(0, 3, dtype=torch.int64),
        torch.tensor([math.nan, -0.0, math.inf, 1e-45]),
        torch.arange(4, dtype=torch.uint8),
        torch.randn(3).bfloat16(),
        torch.randn(3).half(),
        torch.randn(3).double(),
        torch.randn(4, 3).T,
        torch.randn(10)[2:5],
        torch.randn(3, 1).expand(3, 4),
        torch.randn(1, 3, 2, 2).to(memory_format=torch.channels_last),
        torch.nn.Parameter(torch.randn(2)),
    ],
)
def test_tensors_of_every_kind_come_back_bit_for_bit(tmp_path, tensor):
    found = round_trip(tmp_path, [tensor])[0]
    assert same(tensor.detach(), found)
    assert not found.requires_grad


def test_tensors_that_share_memory_come_back_apart(tmp_path):
    base = torch.arange(12.0)
    tree = {"base": base, "again": base, "matrix": base.view(3, 4), "row": base[4:8], "empty": [torch.empty(0)] * 2}
    found = round_trip(tmp_path, tree)
    assert same(tree, found)
    found["base"][4] = -1
    assert found["again"][4] == found["matrix"][1, 0] == found["row"][0] == 4


def test_a_view_does_not_drag_its_whole_storage_along(tmp_path):
    save_tree(tmp_path / "tree", torch.zeros(1_000_000)[:2])
    assert (tmp_path / "tree").stat().st_size < 1000


class Strange:
    pass


@pytest.mark.parametrize("value", [Strange(), {1, 2}, b"bytes", np.int64(3), np.zeros(2), torch.float32, Path("x"), 1j])
def test_what_a_checkpoint_cannot_hold_is_refused_with_its_place_and_nothing_is_written(tmp_path, value):
    with pytest.raises(TypeError, match=rf"^state\['model'\]\[1\] is a {type(value).__name__}; a checkpoint holds"):
        save_tree(tmp_path / "tree", {"model": [0, value]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", [(1, 2), b"k", frozenset()])
def test_a_key_that_could_not_be_read_back_is_refused_when_it_is_saved(tmp_path, key):
    with pytest.raises(TypeError, match=r"^state\['model'\] has the key .*; keys of a checkpoint are str, int"):
        save_tree(tmp_path / "tree", {"model": {key: 1}})


def numbered(folder: Path) -> list[int]:
    return [int(path.name.split("-")[0]) for path in sorted(folder.iterdir())]


def test_only_the_two_newest_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoint")
    for step in range(5):
        folder.save({"step": step, "w": torch.full((3,), float(step))})
        assert numbered(tmp_path / "checkpoint") == list(range(max(1, step), step + 2))
        assert CheckpointFolder(tmp_path / "checkpoint").load()["step"] == step


def test_an_empty_or_absent_folder_holds_no_checkpoint(tmp_path):
    assert CheckpointFolder(tmp_path / "absent").load() is None
    assert CheckpointFolder(tmp_path).load() is None


def two_checkpoints(tmp_path: Path) -> tuple[CheckpointFolder, Path, Path]:
    folder = CheckpointFolder(tmp_path)
    return folder, *(folder.save({"step": step, "w": torch.full((50,), float(step))}) for step in (1, 2))


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path, path.stat().st_size - 1),
        lambda path: os.truncate(path, 0),
        lambda path: flip(path, 0),
        lambda path: flip(path, path.stat().st_size // 2),
        lambda path: flip(path, -1),
    ],
)
def test_a_damaged_newest_is_passed_over_with_a_warning_for_the_one_before(tmp_path, caplog, damage):
    folder, older, newest = two_checkpoints(tmp_path)
    damage(newest)
    with caplog.at_level(logging.WARNING, "bnnbench"):
        assert folder.load()["step"] == 1
    assert f"{newest} is damaged" in caplog.text
    damage(older)
    assert folder.load() is None


def test_a_run_goes_on_after_a_damaged_newest(tmp_path):
    folder, _, newest = two_checkpoints(tmp_path)
    flip(newest, -1)
    folder.save({"step": 3})
    assert folder.load() == {"step": 3}


def test_a_file_of_another_version_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({}, tmp_path / "x", metadata={"version": "99", "tree": "1"})
    with pytest.raises(CorruptFile, match="has checkpoint version 99, expected 1"):
        load_tree(tmp_path / "x")
    save_file({"w": torch.ones(1)}, tmp_path / "y")
    with pytest.raises(CorruptFile, match="has checkpoint version None"):
        load_tree(tmp_path / "y")


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [lambda thing, path: path.write_bytes(pickle.dumps(thing)), torch.save])
def test_a_pickle_in_place_of_a_checkpoint_is_refused_and_never_executed(tmp_path, write):
    from benchmark.checkpoint import _digest

    folder = tmp_path / "checkpoint"
    folder.mkdir()
    write(Malicious(tmp_path / "pwned"), folder / "x")
    with pytest.raises(CorruptFile, match="cannot be read as a checkpoint"):
        load_tree(folder / "x")
    (folder / "x").rename(folder / f"00000001-{_digest(folder / 'x')}.safetensors")
    assert CheckpointFolder(folder).load() is None
    assert not (tmp_path / "pwned").exists()


def test_what_a_killed_writer_left_is_swept_away_and_never_loaded(tmp_path):
    folder, *_ = two_checkpoints(tmp_path)
    (tmp_path / ".00000003.new.1234.abcd.tmp").write_bytes(b"half")
    (tmp_path / "00000003.new").write_bytes(b"unverified")
    assert folder.load()["step"] == 2
    folder.save({"step": 3})
    assert folder.load() == {"step": 3}
    assert numbered(tmp_path) == [2, 3]


# -- when a state is saved ------------------------------------------------------------------------------------------


def periodic(tmp_path: Path, *, seconds: float, stop: bool = False) -> tuple[PeriodicCheckpoints, list[str]]:
    events: list[str] = []

    def wrap(state: Any) -> Any:
        events.append("wrap")
        return {"wrapped": state}

    made = PeriodicCheckpoints(
        CheckpointFolder(tmp_path),
        seconds=seconds,
        wrap=wrap,
        unwrap=lambda saved: saved["wrapped"],
        stop_requested=lambda: stop,
        before_save=lambda: events.append("before"),
    )
    return made, events


def test_an_offer_that_is_not_due_asks_for_no_state(tmp_path):
    checkpoints, events = periodic(tmp_path, seconds=1000)
    checkpoints.offer(lambda: pytest.fail("not due"))
    assert events == []
    assert checkpoints.load() is None


def test_zero_seconds_save_at_every_offer(tmp_path):
    checkpoints, events = periodic(tmp_path, seconds=0)
    for step in range(3):
        checkpoints.offer(lambda step=step: {"step": step})
        assert checkpoints.load() == {"step": step}
    assert events == ["before", "wrap"] * 3


def test_a_stop_saves_at_once_and_then_interrupts(tmp_path):
    checkpoints, _ = periodic(tmp_path, seconds=1000, stop=True)
    with pytest.raises(Interrupted, match="the state is saved"):
        checkpoints.offer(lambda: {"step": 5})
    assert checkpoints.load() == {"step": 5}

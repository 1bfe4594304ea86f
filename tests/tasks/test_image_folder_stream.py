"""Inputs decoded by processes: the same numbers however many there are, and nothing left behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import time
from pathlib import Path

import pytest
import torch
from jpeg_folders import quiet, write_imagenet

from benchmark import Split
from tasks.image_folder.workers import Workers
from tasks.imagenet import ORIGINAL, ImageNetConfig, ImageNetTask

TASK = ImageNetTask()
LOADERS = "BNNBENCH_LOADERS"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("imagenet")
    write_imagenet(root, train=10)
    ORIGINAL.prepare(root, quiet)
    return root


@pytest.fixture(autouse=True)
def clean(root: Path, monkeypatch: pytest.MonkeyPatch):
    """Every test ends without processes."""
    monkeypatch.setenv("BNNBENCH_DATA", str(root))
    monkeypatch.setenv(LOADERS, "0")
    yield
    gc.collect()
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert multiprocessing.active_children() == []


def split(augment: str = "standard", name: str = "train") -> Split:
    found = TASK.load(ImageNetConfig(image_size=32, val_per_class=1, augment=augment), name)
    assert found is not None
    return found


def epoch(data: Split, batch_size: int = 5, seed: int = 4, skip: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [inputs for inputs, _ in data.training_batches(batch_size, generator, skip)]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("augment", ["none", "standard", "deit"])
def test_the_number_of_processes_changes_no_number(augment: str, monkeypatch: pytest.MonkeyPatch):
    expected = epoch(split(augment))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for loaders in ("1", "3"):
        monkeypatch.setenv(LOADERS, loaders)
        assert same(epoch(split(augment)), expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert not same(epoch(split(augment), seed=5), expected)


@pytest.mark.parametrize("loaders", ["0", "2"])
def test_an_epoch_entered_in_the_middle_is_the_rest_of_the_whole_and_reads_only_that(
    loaders: str, monkeypatch, tmp_path
):
    monkeypatch.setenv(LOADERS, loaders)
    whole = epoch(split("deit"))
    log = tmp_path / "decoded"
    log.touch()
    from tasks.image_folder import decode

    original = decode.decoded

    def recorded(data: bytes, path: str) -> torch.Tensor:
        with open(log, "a") as handle:
            handle.write(path + "\n")
        return original(data, path)

    monkeypatch.setattr(decode, "decoded", recorded)
    assert same(epoch(split("deit"), skip=4), whole[4:])
    assert len(log.read_text().splitlines()) == sum(len(batch) for batch in whole[4:])


def test_an_example_does_not_depend_on_the_batch_it_is_in():
    inputs = split("deit")._inputs
    together = torch.cat(list(inputs.read_for_training([torch.arange(12)], 9)))
    apart = list(inputs.read_for_training([torch.tensor([7, 0]), torch.tensor([11])], 9))
    assert torch.equal(torch.cat(apart), together[[7, 0, 11]])


def test_reading_by_slices_places_and_batches_agrees():
    test = split(name="test")
    everything = test.inputs
    assert everything.shape == test.shape == (9, 3, 32, 32)
    assert everything.dtype == torch.float32
    assert everything.is_contiguous()
    assert torch.equal(torch.cat([inputs for inputs, _ in test.batches(4)]), everything)
    places = torch.tensor([8, 1, 1])
    chosen = test.select(places)
    assert torch.equal(chosen.inputs, everything[places])
    assert torch.equal(chosen.labels, test.labels[places])
    assert torch.equal(test.select(slice(2, 7)).select(torch.tensor([1])).inputs, everything[3:4])
    assert test._inputs.read(slice(0, 0)).shape == (0, 3, 32, 32)


def test_selected_examples_are_not_augmented():
    train = split("standard")
    assert train._inputs.augments
    chosen = train.select(slice(0, 6))
    assert not chosen._inputs.augments
    assert torch.equal(epoch(chosen, 6)[0].sum((1, 2, 3)).sort()[0], chosen.inputs.sum((1, 2, 3)).sort()[0])


def test_a_stream_survives_pickling_with_workers_running(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(LOADERS, "2")
    data = split("standard")
    expected = epoch(data)
    copy = pickle.loads(pickle.dumps(data._inputs))
    assert same(epoch(Split(copy, data.labels)), expected)


def test_the_memory_order_can_be_channels_last_with_the_same_values():
    from tasks.image_folder.decode import FileImages
    from tasks.image_folder.stream import ImageStream
    from tasks.image_folder.transforms import View

    root = Path(os.environ["BNNBENCH_DATA"])
    images = FileImages(ORIGINAL.part_folder(root, "val"), ORIGINAL.index(root, "val"))
    plain = ImageStream(images, View(32, 37), "imagenet").read(slice(0, 4))
    last = ImageStream(images, View(32, 37), "imagenet", channels_last=True).read(slice(0, 4))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain, last)


def test_workers_are_kept_for_the_next_pass_and_stopped_when_a_pass_is_left(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(LOADERS, "2")
    data = split("standard")
    passes = data.training_batches(5, torch.Generator())
    assert multiprocessing.active_children() == []  # lazily
    next(passes)
    first = {child.pid for child in multiprocessing.active_children()}
    assert len(first) == 2
    assert len(list(passes)) == 5
    epoch(data)
    assert {child.pid for child in multiprocessing.active_children()} == first
    left = data.training_batches(5, torch.Generator())
    next(left)
    left.close()
    assert multiprocessing.active_children() == []


def test_two_passes_at_once_do_not_disturb_each_other(monkeypatch: pytest.MonkeyPatch):
    expected = epoch(split("standard"))
    monkeypatch.setenv(LOADERS, "2")
    data = split("standard")
    one, other = (data.training_batches(5, torch.Generator().manual_seed(4)) for _ in range(2))
    pairs = list(zip(one, other, strict=True))
    assert same([first for (first, _), _ in pairs], expected)
    assert same([second for _, (second, _) in pairs], expected)


def test_a_forked_child_reads_with_workers_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(LOADERS, "2")
    data = split("standard")
    expected = epoch(data)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if same(epoch(data), expected) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert same(epoch(data), expected)  # with the workers from before


def _refuse_seven(number: int) -> int:
    if number == 7:
        raise RuntimeError("no sevens")
    return number * 2


def test_an_exception_in_a_worker_arrives_and_leaves_no_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(LOADERS, "2")
    workers = Workers(_refuse_seven)
    assert list(workers.results(range(7))) == [0, 2, 4, 6, 8, 10, 12]
    with pytest.raises(RuntimeError, match="no sevens"):
        list(workers.results(range(9)))

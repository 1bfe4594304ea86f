"""ImageNet decoded beforehand: the same images, made once, resumed when killed, refused when they do not fit."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jpeg_folders import CLASSES, quiet, write_imagenet, write_jpeg
from torchvision.transforms.v2 import functional

from benchmark import EnvironmentProblem, MissingData, check_data
from tasks.image_folder import packed
from tasks.image_folder.cache import RECORD_BYTES, ImageCache
from tasks.image_folder.decode import BrokenImage, FileImages
from tasks.image_folder.lock import alone
from tasks.imagenet import ORIGINAL, ImageNetConfig, ImageNetTask

TASK = ImageNetTask()
SIDE = 40
CONFIG = ImageNetConfig(image_size=32, val_per_class=1, source="cache", cache_side=SIDE)
CACHE = ImageCache(ORIGINAL, SIDE)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BNNBENCH_DATA", str(tmp_path))
    monkeypatch.setenv("BNNBENCH_LOADERS", "0")
    monkeypatch.setattr(packed, "CHUNK", 4)
    write_imagenet(tmp_path)
    ORIGINAL.prepare(tmp_path, quiet)
    return tmp_path


def test_the_cache_holds_every_image_with_its_shorter_side_resized(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BNNBENCH_LOADERS", "2")
    CACHE.prepare(root, quiet)
    check_data(TASK.data(CONFIG))
    for part in ("train", "val"):
        cached, files = (
            CACHE.images(root, part),
            FileImages(ORIGINAL.part_folder(root, part), ORIGINAL.index(root, part)),
        )
        assert len(cached) == len(files)
        for row in range(len(files)):
            assert torch.equal(cached.image(row), functional.resize(files.image(row), [SIDE], antialias=True))
    assert sorted(path.name for path in CACHE.folder(root).iterdir()) == [
        *(f"{part}.{kind}" for part in ("train", "val") for kind in ("json", "pixels", "shapes"))
    ]


def test_planning_knows_the_size_of_a_record():
    assert packed.RECORD.itemsize == RECORD_BYTES


def test_splits_from_the_cache_match_the_files_closely_and_have_another_identity(root: Path):
    CACHE.prepare(root, quiet)
    files = CONFIG.model_copy(update={"source": "files"})
    assert TASK.fingerprint(CONFIG) != TASK.fingerprint(files)
    assert TASK.info(CONFIG) == TASK.info(files)
    for split in ("train", "val", "test"):
        ours, theirs = TASK.load(CONFIG, split), TASK.load(files, split)
        assert torch.equal(ours.labels, theirs.labels)
        assert float((ours.inputs - theirs.inputs).abs().mean()) < 0.1  # of standard deviation 1: resized twice


def test_a_killed_preparation_goes_on_and_ends_with_the_same_bytes(root: Path, monkeypatch: pytest.MonkeyPatch):
    CACHE.prepare(root, quiet)
    expected = {path.name: path.read_bytes() for path in CACHE.folder(root).iterdir()}
    for path in CACHE.folder(root).iterdir():
        path.unlink()
    original, decoded = FileImages.image, []

    def dies(self: FileImages, row: int) -> torch.Tensor:
        if len(decoded) == 11:
            raise KeyboardInterrupt
        decoded.append(row)
        return original(self, row)

    monkeypatch.setattr(FileImages, "image", dies)
    with pytest.raises(KeyboardInterrupt):
        CACHE.prepare(root, quiet)
    assert "there is no" in CACHE.problems(root)[0]
    (partial,) = CACHE.folder(root).glob("train-*.pixels.partial")
    partial.write_bytes(partial.read_bytes()[:-1])  # as if the last write had been cut

    said: list[str] = []
    monkeypatch.setattr(FileImages, "image", original)
    CACHE.prepare(root, said.append)
    assert any("goes on after 7 images" in line for line in said)
    assert {path.name: path.read_bytes() for path in CACHE.folder(root).iterdir()} == expected


def test_too_little_room_is_said_before_anything_is_decoded(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(EnvironmentProblem, match=r"imagenet-cache-40 needs about 0\.0 GiB .*are\s*free"):
        CACHE.prepare(root, quiet)
    assert list(CACHE.folder(root).iterdir()) == []


def test_the_room_that_is_asked_for_is_what_is_used(root: Path):
    CACHE.prepare(root, quiet)
    index, folder = ORIGINAL.index(root, "train"), ORIGINAL.part_folder(root, "train")
    expected = packed.expected_bytes([str(folder / index.name(row)) for row in range(len(index))], SIDE)
    assert expected == pytest.approx((CACHE.folder(root) / "train.pixels").stat().st_size, rel=0.02)


def test_a_cache_of_other_images_or_a_cut_one_is_refused_and_mended(root: Path):
    with pytest.raises(MissingData, match=r"imagenet-cache-40 .*\n.*there is no .*train.pixels.*"):
        check_data(TASK.data(CONFIG))
    CACHE.prepare(root, quiet)
    write_jpeg(root / "imagenet" / "val" / CLASSES[0] / "new.JPEG", 1, (50, 40))
    ORIGINAL.prepare(root, quiet)
    assert "does not belong to the imagenet that is there now" in CACHE.problems(root)[0]
    CACHE.prepare(root, quiet)
    pixels = CACHE.folder(root) / "train.pixels"
    pixels.write_bytes(pixels.read_bytes()[:-100])
    assert "is cut (bytes)" in CACHE.problems(root)[0]
    CACHE.prepare(root, quiet)
    assert CACHE.problems(root) == []
    assert len(CACHE.images(root, "val")) == 10


def test_a_cut_list_of_shapes_is_refused_and_mended(root: Path):
    CACHE.prepare(root, quiet)
    shapes = CACHE.folder(root) / "train.shapes"
    shapes.write_bytes(shapes.read_bytes()[: 3 * packed.RECORD.itemsize])
    assert "is cut (shapes)" in CACHE.problems(root)[0]
    CACHE.prepare(root, quiet)
    assert len(CACHE.images(root, "train")) == 18


def test_a_second_preparation_waits_for_the_first_and_finds_nothing_to_do(root: Path, monkeypatch: pytest.MonkeyPatch):
    CACHE.prepare(root, quiet)
    expected = {path.name: path.read_bytes() for path in CACHE.folder(root).iterdir()}
    shutil.rmtree(CACHE.folder(root))
    original, first = FileImages.image, threading.get_ident()
    said: list[str] = []
    second = threading.Thread(target=lambda: CACHE.prepare(root, said.append))
    decoded_by = set()

    def slowly(self: FileImages, row: int) -> torch.Tensor:
        decoded_by.add(threading.get_ident())
        if row == 9 and not said:
            second.start()
            deadline = time.monotonic() + 10
            while not said and time.monotonic() < deadline:
                time.sleep(0.01)
        return original(self, row)

    monkeypatch.setattr(FileImages, "image", slowly)
    CACHE.prepare(root, quiet)
    second.join(20)
    assert said == [line for line in said if f"prepared by process {os.getpid()} on" in line]
    assert decoded_by == {first}
    assert {path.name: path.read_bytes() for path in CACHE.folder(root).iterdir()} == expected


def test_a_lock_ends_with_its_process(tmp_path: Path):
    path = tmp_path / "one.lock"
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with alone(path, "it", quiet):
            os.write(writing, b"!")
            time.sleep(60)
        os._exit(1)
    os.read(reading, 1)
    said: list[str] = []
    threading.Timer(0.3, os.kill, (child, signal.SIGKILL)).start()
    with alone(path, "it", said.append):
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert len(said) == 1
    assert f"by process {child} on" in said[0]


def test_something_else_that_writes_to_the_pixels_is_noticed(root: Path, monkeypatch: pytest.MonkeyPatch):
    original = FileImages.image

    def intrudes(self: FileImages, row: int) -> torch.Tensor:
        if row == 9:
            (partial,) = CACHE.folder(root).glob("train-*.pixels.partial")
            with open(partial, "ab") as handle:
                handle.write(b"x")
        return original(self, row)

    monkeypatch.setattr(FileImages, "image", intrudes)
    with pytest.raises(EnvironmentProblem, match="something else wrote to it"):
        CACHE.prepare(root, quiet)
    assert CACHE.problems(root)


def test_records_reach_the_disk_after_the_pixels_that_they_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packed, "CHUNK", 1)
    monkeypatch.setattr(packed, "CHUNKS_PER_SYNC", 3)
    monkeypatch.setenv("BNNBENCH_LOADERS", "0")
    pixels, shapes = tmp_path / "pixels", tmp_path / "shapes"
    synced: list[int] = []

    def lengths(self: SimpleNamespace, row: int) -> torch.Tensor:
        assert shapes.stat().st_size == sum(synced)
        return torch.full((3, 4, 4), row, dtype=torch.uint8)

    def fsync(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), pixels.stat()):
            synced.append(packed.RECORD.itemsize * (os.fstat(descriptor).st_size // 48) - sum(synced))

    monkeypatch.setattr(os, "fsync", fsync)
    images = type("Seven", (), {"__len__": lambda self: 7, "image": lengths})()
    assert packed.pack(images, 4, pixels, shapes, quiet) == 7 * 48
    assert [length // packed.RECORD.itemsize for length in synced if length] == [3, 3, 1]
    pixels.write_bytes(pixels.read_bytes()[: 4 * 48] + bytes(3 * 48))  # as after a power cut
    said: list[str] = []
    monkeypatch.undo()
    monkeypatch.setenv("BNNBENCH_LOADERS", "0")
    calm = type("Seven", (), {"__len__": lambda self: 7, "image": lambda self, row: torch.full((3, 4, 4), row).byte()})
    packed.pack(calm(), 4, pixels, shapes, said.append)
    assert "goes on after 4 images" in said[0]
    assert all(packed.PackedImages(pixels, shapes).whole(row) for row in range(7))


def test_a_pack_larger_than_the_memory_is_read(tmp_path: Path):
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    pixels, shapes = tmp_path / "pixels", tmp_path / "shapes"
    records = np.zeros(3, dtype=packed.RECORD)
    records["height"], records["width"] = [2**15, 2, 2], [2 * memory // (3 * 2**15), 3, 3]
    records.tofile(shapes)
    before = int(packed.ends_of(records)[0])
    with open(pixels, "wb") as handle:  # a hole takes no room
        handle.seek(before)
        handle.write(bytes(range(18)))
    images = pickle.loads(pickle.dumps(packed.PackedImages(pixels, shapes)))
    assert before > 1.9 * memory
    assert torch.equal(images.image(1), torch.arange(18, dtype=torch.uint8).view(2, 3, 3).permute(2, 0, 1))
    with pytest.raises(BrokenImage, match="is cut: it does not hold all bytes of image 2"):
        images.image(2)


def test_verify_finds_a_changed_byte(root: Path):
    CACHE.prepare(root, quiet)
    assert CACHE.verify(root, quiet) == []
    pixels = CACHE.folder(root) / "val.pixels"
    raw = bytearray(pixels.read_bytes())
    raw[0] ^= 1
    pixels.write_bytes(raw)
    (line,) = CACHE.verify(root, quiet)
    assert "image 0 differs" in line
    assert "there is no" in CACHE.problems(root)[0]
    CACHE.prepare(root, quiet)
    assert CACHE.verify(root, quiet) == []


def test_a_broken_image_stops_the_preparation_with_its_name(root: Path):
    broken = root / "imagenet" / "train" / CLASSES[1] / "train_00000003.JPEG"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(MissingData, match=rf"{broken} .*\n.*bnnbench data verify imagenet"):
        CACHE.prepare(root, quiet)


def test_a_cache_without_its_original_is_refused(tmp_path: Path):
    with pytest.raises(MissingData, match="imagenet-cache-40 is made from imagenet"):
        CACHE.prepare(tmp_path, quiet)

"""Damaged files of published data sets: what tells them, how they are replaced, two at once, killed, without room."""

from __future__ import annotations

import gzip
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Barrier, Thread

import pytest
import torchvision.datasets
from image_files import write_cifar10, write_corrupted, write_mnist, write_svhn

from benchmark import EnvironmentProblem, MissingData
from benchmark.datasets import set_data_root
from benchmark.preparation import set_aside
from tasks import whole_files
from tasks.files import corrupted_cifar
from tasks.files.cifar import Cifar10
from tasks.files.corrupted_cifar import Cifar10C
from tasks.files.download import fetch, untar
from tasks.files.mnist import Mnist
from tasks.files.reading import md5_of
from tasks.files.svhn import Svhn
from tasks.published_corruptions import CORRUPTIONS
from tasks.whole_files import alone, write_whole


def quiet(line):
    pass


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def pack(root, folder, archive):
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as packed:
        packed.add(root / folder, arcname=folder)


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    (tmp_path / "server").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(tmp_path / "server"))) as found:
        Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_address[1]}/"
        found.shutdown()


# -- another content than the published one ---------------------------------------------------------------------------


def published_mnist(root, monkeypatch):
    """Small files that count as the published ones, and as such lie packed in the folder."""
    write_mnist(root)
    paths = [path for part in Mnist.NAMES for path in Mnist().files_of(root, part)]
    monkeypatch.setattr(Mnist, "md5", {path.name: md5_of(path) for path in paths})
    monkeypatch.setattr(Mnist, "PUBLISHED", {"train": 60, "test": 20})
    for path in paths:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    resources = [(f"{path.name}.gz", md5_of(path.with_name(f"{path.name}.gz"))) for path in paths]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    return paths


def test_a_published_idx_file_with_another_content_is_replaced(tmp_path, monkeypatch):
    paths = published_mnist(tmp_path, monkeypatch)
    whole = paths[0].read_bytes()
    flip(paths[0])
    assert list(Mnist().problems(tmp_path)) == []
    assert list(Mnist().damaged(tmp_path)) == [paths[0]]
    assert set_aside(Mnist(), tmp_path, quiet) is None
    Mnist().prepare(tmp_path, quiet)
    assert list(Mnist().verify(tmp_path, quiet)) == []
    assert paths[0].read_bytes() == whole
    assert paths[0].with_name(f"{paths[0].name}.damaged").read_bytes() != whole


def test_a_packed_file_of_another_content_is_not_unpacked_but_fetched(tmp_path, monkeypatch, server):
    paths = published_mnist(tmp_path, monkeypatch)
    good = {path: path.read_bytes() for path in paths}
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [server])
    for path in paths:
        packed = path.with_name(f"{path.name}.gz")
        (tmp_path / "server" / packed.name).write_bytes(packed.read_bytes())
        flip(path)
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    Mnist().prepare(tmp_path, quiet)
    assert {path: path.read_bytes() for path in paths} == good


def test_a_published_batch_with_another_content_is_replaced_from_the_network(tmp_path, monkeypatch, server):
    write_cifar10(tmp_path)
    official = torchvision.datasets.CIFAR10
    train, test = (Cifar10().files_of(tmp_path, part) for part in ("train", "test"))
    monkeypatch.setattr(official, "train_list", [[path.name, md5_of(path)] for path in train])
    monkeypatch.setattr(official, "test_list", [[path.name, md5_of(path)] for path in test])
    good = tmp_path / "server" / "cifar-10-python.tar.gz"
    pack(tmp_path, "cifar-10-batches-py", good)
    monkeypatch.setattr(official, "url", server + good.name)
    monkeypatch.setattr(official, "tgz_md5", md5_of(good))
    train[1].write_bytes(b"\x80" + bytes(4000) + b".")  # no batch at all
    pack(tmp_path, "cifar-10-batches-py", tmp_path / good.name)
    assert list(Cifar10().problems(tmp_path)) == []
    assert list(Cifar10().damaged(tmp_path)) == [train[1]]
    assert set_aside(Cifar10(), tmp_path, quiet) is None
    Cifar10().prepare(tmp_path, quiet)  # what lies there packed is as damaged
    assert list(Cifar10().damaged(tmp_path)) == list(Cifar10().verify(tmp_path, quiet)) == []


def test_files_that_somebody_made_are_left_alone(tmp_path):
    write_mnist(tmp_path)
    write_cifar10(tmp_path)
    write_svhn(tmp_path)
    for data_set in (Mnist(), Cifar10(), Svhn()):
        assert list(data_set.damaged(tmp_path)) == []
    flip(Svhn().path(tmp_path))
    assert list(Svhn().damaged(tmp_path)) == [Svhn().path(tmp_path)]


def test_a_damaged_archive_of_corrupted_images_is_not_unpacked(tmp_path, monkeypatch):
    write_corrupted(tmp_path / "made", CORRUPTIONS)
    archive = tmp_path / "CIFAR-10-C.tar"
    pack(tmp_path / "made", "CIFAR-10-C", archive)
    monkeypatch.setattr(corrupted_cifar, "PUBLISHED_BYTES", archive.stat().st_size)
    monkeypatch.setattr(Cifar10C, "archive_md5", md5_of(archive))
    flip(archive)
    with pytest.raises(MissingData, match=r"CIFAR-10-C.tar is damaged: its MD5 is .*(.|\n)*Get CIFAR-10-C.tar"):
        Cifar10C().prepare(tmp_path, quiet)
    assert not (tmp_path / "CIFAR-10-C").exists()
    flip(archive)
    Cifar10C().prepare(tmp_path, quiet)
    assert list(Cifar10C().problems(tmp_path)) == []


def test_messages_of_readers_name_the_root_that_was_typed(tmp_path, monkeypatch):
    monkeypatch.delenv("BNNBENCH_DATA", raising=False)
    set_data_root(tmp_path)
    try:
        for read in (
            lambda: Mnist().read(tmp_path, "test"),
            lambda: Cifar10().read(tmp_path, "test"),
            lambda: Svhn().read(tmp_path),
            lambda: Cifar10C().read(tmp_path, "fog", 1),
        ):
            with pytest.raises(MissingData, match=rf"bnnbench data prepare \w+ --data-root {re.escape(str(tmp_path))}"):
                read()
    finally:
        os.environ.pop("BNNBENCH_DATA")


# -- room, company and sudden death -----------------------------------------------------------------------------------


def test_without_room_nothing_is_unpacked(tmp_path, monkeypatch):
    write_corrupted(tmp_path / "made", CORRUPTIONS)
    pack(tmp_path / "made", "CIFAR-10-C", tmp_path / "CIFAR-10-C.tar")
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(whole_files.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(EnvironmentProblem, match=r"unpacking .*CIFAR-10-C.tar needs 0.00 GB, and .* left"):
        Cifar10C().prepare(tmp_path, quiet)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CIFAR-10-C.tar", "made"]


def test_two_who_write_one_file_do_not_meet(tmp_path):
    """The second begins and ends while the first is half way; both leave a whole file."""
    target = tmp_path / "target"

    def first(temporary):
        temporary.write_bytes(b"first, ")
        write_whole(target, lambda other: other.write_bytes(b"second"))
        assert target.read_bytes() == b"second"
        with open(temporary, "ab") as handle:
            handle.write(b"whole")

    write_whole(target, first)
    assert target.read_bytes() == b"first, whole"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_file_that_is_fetched_by_two_at_once_is_whole(tmp_path, server):
    (tmp_path / "server" / "file").write_bytes(os.urandom(3_000_000))
    md5, target = md5_of(tmp_path / "server" / "file"), tmp_path / "folder" / "file"
    done = []
    threads = [Thread(target=lambda: done.append(fetch([server + "file"], target, md5, quiet, ""))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [None] * 4
    assert md5_of(target) == md5
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_one_at_a_time_holds_the_lock_and_the_last_takes_it_away(tmp_path):
    lock, inside, most, start = tmp_path / "lock", [], [], Barrier(5)

    def work():
        start.wait()
        for _ in range(20):
            with alone(lock):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0005)
                inside.pop()

    threads = [Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 100
    assert not lock.exists()


UNPACK = """
import sys, tarfile, time
from pathlib import Path
from tasks.files.download import untar

def stuck(self, path, *args, **settings):
    Path(path, "half").write_bytes(b"half")
    time.sleep(60)

tarfile.TarFile.extractall = stuck
untar(Path(sys.argv[1]) / "made.tar", "made", Path(sys.argv[1]))
"""


def test_what_a_killed_process_left_is_cleared_by_the_next(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "file").write_bytes(b"content")
    pack(tmp_path, "made", tmp_path / "made.tar")
    (tmp_path / "made" / "file").unlink()
    with subprocess.Popen([sys.executable, "-c", UNPACK, str(tmp_path)]) as process:
        deadline = time.monotonic() + 30
        while not (tmp_path / ".made.unpacking" / "half").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    assert (tmp_path / ".made.lock").exists()
    assert untar(tmp_path / "made.tar", "made", tmp_path) is None
    assert (tmp_path / "made" / "file").read_bytes() == b"content"
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["made", "made.tar"]

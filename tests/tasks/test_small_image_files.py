"""Files of MNIST, CIFAR, SVHN and CIFAR-C: read as written, and refused when they are missing, damaged or hostile."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import shutil
import struct
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from image_files import (
    batch,
    images_and_labels,
    pickled,
    write_cifar10,
    write_cifar100,
    write_corrupted,
    write_idx,
    write_mnist,
    write_svhn,
)

from benchmark import MissingData, check_data
from tasks.files.cifar import Cifar10, Cifar100
from tasks.files.corrupted_cifar import Cifar10C, Cifar100C
from tasks.files.download import untar
from tasks.files.mnist import FashionMnist, Mnist
from tasks.files.reading import md5_of
from tasks.files.svhn import Svhn
from tasks.published_corruptions import CORRUPTIONS

SETS = [Mnist(), FashionMnist(), Cifar10(), Cifar100(), Svhn(), Cifar10C(), Cifar100C()]


def quiet(line):
    pass


@pytest.fixture(autouse=True)
def own_cache_of_digests(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def write_all(root):
    write_mnist(root)
    write_mnist(root, "FashionMNIST", seed=1)
    write_cifar10(root)
    write_cifar100(root)
    write_svhn(root)
    write_corrupted(root, CORRUPTIONS)
    write_corrupted(root, CORRUPTIONS, "CIFAR-100-C", n_classes=100)


def change(path, place, value=None):
    """Another byte at a place; by default the one there with all its bits turned."""
    content = bytearray(path.read_bytes())
    content[place] = content[place] ^ 0xFF if value is None else value
    path.write_bytes(content)


def as_published(data_set, root, monkeypatch, n_train, n_test):
    """Let the small files below `root` count as the published ones of torchvision."""
    if isinstance(data_set, Mnist):
        paths = [*data_set.files_of(root, "train"), *data_set.files_of(root, "test")]
        monkeypatch.setattr(Mnist, "md5", {path.name: md5_of(path) for path in paths})
        monkeypatch.setattr(Mnist, "PUBLISHED", {"train": n_train, "test": n_test})
    elif isinstance(data_set, Svhn):
        monkeypatch.setitem(torchvision.datasets.SVHN.split_list, "test", ["", "", md5_of(data_set.path(root))])
        monkeypatch.setattr("tasks.files.svhn.N_PUBLISHED", n_test)


# -- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data_set", SETS, ids=lambda each: each.name)
def test_whole_files_have_no_problems_and_a_fingerprint_of_their_content(data_set, tmp_path):
    elsewhere, tmp_path = tmp_path / "elsewhere", tmp_path / "here"
    write_all(tmp_path)
    assert list(data_set.problems(tmp_path)) == []
    said = []
    assert list(data_set.verify(tmp_path, said.append)) == []
    assert all("not the published file" in line or "no checksum published" in line for line in said)
    assert said
    before = data_set.fingerprint(tmp_path)
    shutil.copytree(tmp_path, elsewhere)  # written anew, the file of SVHN would hold another time
    assert data_set.fingerprint(elsewhere) == before
    largest = max((path for path in data_set.folder(tmp_path).iterdir()), key=lambda path: path.stat().st_size)
    change(largest, largest.stat().st_size // 2)
    assert data_set.fingerprint(tmp_path) != before


@pytest.mark.parametrize("data_set", SETS, ids=lambda each: each.name)
def test_missing_files_are_named_with_the_command_that_mends_it(data_set, tmp_path, monkeypatch):
    monkeypatch.setenv("BNNBENCH_DATA", str(tmp_path))
    with pytest.raises(MissingData) as caught:
        check_data([data_set])
    text = str(caught.value)
    assert f"{data_set.folder(tmp_path)}" in text
    assert ": missing" in text
    assert f"bnnbench data prepare {data_set.name}" in text
    assert data_set.manual in text
    write_all(tmp_path)
    check_data([data_set])


@pytest.mark.parametrize("data_set", SETS, ids=lambda each: each.name)
def test_every_file_is_missed_and_every_truncated_one_is_found(data_set, tmp_path):
    write_all(tmp_path)
    for path in list(data_set.folder(tmp_path).iterdir()):
        whole = path.read_bytes()
        for kept in (0, 1, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:kept])
            if data_set.name.startswith("cifar1") and whole[kept - 1 : kept] == b".":
                continue  # a full stop by chance: found when the file is read
            assert [line for line in data_set.problems(tmp_path) if str(path) in line], (path, kept)
            assert list(data_set.verify(tmp_path, quiet))
        path.unlink()
        assert f"{path}: missing" in list(data_set.problems(tmp_path))
        path.write_bytes(whole)
    assert list(data_set.problems(tmp_path)) == []


def test_names_and_addresses_are_those_of_torchvision():
    for data_set in (Mnist(), FashionMnist()):
        official = getattr(torchvision.datasets, data_set.torchvision)
        names = [name.removesuffix(".gz") for name, _ in official.resources]
        assert sorted(names) == sorted(data_set.md5)
        assert [name for pair in data_set.NAMES.values() for name in pair] == names
    for data_set in (Cifar10(), Cifar100()):
        official = getattr(torchvision.datasets, data_set.torchvision)
        assert data_set.inside == official.base_folder
        assert list(data_set.files["train"]) == [name for name, _ in official.train_list] == list(data_set.published)
        assert list(data_set.files["test"]) == [name for name, _ in official.test_list]
    assert Svhn().path(Path()).name == torchvision.datasets.SVHN.split_list["test"][1]


# -- MNIST ------------------------------------------------------------------------------------------------------------


def test_idx_files_are_read_as_written(tmp_path):
    written = write_mnist(tmp_path)
    for part, (pixels, labels) in written.items():
        found, own = Mnist().read(tmp_path, part)
        assert np.array_equal(found[:, 0].numpy(), pixels)
        assert np.array_equal(own.numpy(), labels)
        assert Mnist().class_counts(tmp_path, part) == np.bincount(labels, minlength=10).tolist()
        assert Mnist().count(tmp_path, part) == len(labels)


def test_what_is_wrong_with_an_idx_file_is_said(tmp_path):
    write_mnist(tmp_path)
    images, labels = Mnist().files_of(tmp_path, "train")
    whole = images.read_bytes()
    for content, message in (
        (whole[:-100], "46,956 bytes, its header says 47,056: truncated"),
        (whole + b"\0", "something was appended"),
        (struct.pack(">4I", 0x803, 60, 14, 56) + whole[16:], "images of 14x56, expected 28x28"),
        (b"<html>not found</html>", "not an idx file of images"),
        (struct.pack(">4I", 0x803, 59, 28, 28) + whole[16:-784], "59 images, but 60 labels"),
    ):
        images.write_bytes(content)
        (problem,) = Mnist().problems(tmp_path)
        assert str(images) in problem
        assert message in problem
        with pytest.raises(MissingData, match="bnnbench data prepare mnist"):
            Mnist().read(tmp_path, "train")
        assert len(Mnist().read(tmp_path, "test")[1]) == 20
    images.write_bytes(whole)
    change(labels, 20, 10)
    with pytest.raises(MissingData, match="label 10; legal are 0 to 9"):
        Mnist().read(tmp_path, "train")


def test_a_flipped_byte_of_published_files_is_found(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    as_published(Mnist(), tmp_path, monkeypatch, 60, 20)
    said = []
    assert list(Mnist().verify(tmp_path, said.append)) == []
    assert all("as published" in line for line in said)
    assert len(said) == 4
    path = Mnist().files_of(tmp_path, "test")[0]
    change(path, 5000)
    (problem,) = Mnist().verify(tmp_path, quiet)
    assert str(path) in problem
    assert f"another content (MD5 {md5_of(path)}, published " in problem
    write_svhn(tmp_path, compress=False)
    as_published(Svhn(), tmp_path, monkeypatch, 0, 30)
    assert list(Svhn().verify(tmp_path, quiet)) == []
    change(Svhn().path(tmp_path), 5000)
    (problem,) = Svhn().verify(tmp_path, quiet)
    assert "another content" in problem


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """The address of a web server on this machine that gives away the files of `server`."""
    (tmp_path / "server").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(tmp_path / "server"))) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_address[1]}/"
        found.shutdown()


def pack_mnist(root, folder):
    """The packed files of small idx files; returns torchvision's list for them."""
    write_mnist(root)
    folder.mkdir(parents=True, exist_ok=True)
    resources = []
    for path in [*Mnist().files_of(root, "train"), *Mnist().files_of(root, "test")]:
        packed = folder / f"{path.name}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        resources.append((packed.name, md5_of(packed)))
        path.unlink()
    return resources


def test_packed_files_are_unpacked_by_prepare(tmp_path):
    pack_mnist(tmp_path, Mnist().folder(tmp_path))
    assert "train-images-idx3-ubyte.gz is there and not unpacked" in "".join(Mnist().problems(tmp_path))
    Mnist().prepare(tmp_path, quiet)
    assert list(Mnist().problems(tmp_path)) == []
    assert len(Mnist().read(tmp_path, "train")[1]) == 60


def test_files_are_downloaded_from_the_first_mirror_that_has_them(tmp_path, monkeypatch, server):
    resources = pack_mnist(tmp_path, tmp_path / "server")
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [server + "absent/", server])
    Mnist().prepare(tmp_path, quiet)
    assert list(Mnist().problems(tmp_path)) == []
    kept = {path.name: path.stat().st_mtime_ns for path in Mnist().folder(tmp_path).iterdir()}
    assert not [name for name in kept if name.endswith(".part")]
    Mnist().prepare(tmp_path, quiet)
    assert {path.name: path.stat().st_mtime_ns for path in Mnist().folder(tmp_path).iterdir()} == kept


def test_a_download_that_fails_or_differs_leaves_no_file_behind(tmp_path, monkeypatch, server):
    resources = pack_mnist(tmp_path, tmp_path / "server")
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [server])
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", [(name, "0" * 32) for name, _ in resources])
    with pytest.raises(MissingData, match=r"cannot be downloaded(.|\n)*not found or corrupted(.|\n)*Without network: "):
        Mnist().prepare(tmp_path, quiet)
    assert list(Mnist().folder(tmp_path).iterdir()) == []


def test_a_broken_packed_file_is_fetched_again(tmp_path, monkeypatch, server):
    resources = pack_mnist(tmp_path, tmp_path / "server")
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [server])
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    broken = Mnist().folder(tmp_path) / resources[0][0]
    broken.write_bytes((tmp_path / "server" / resources[0][0]).read_bytes()[:100])
    Mnist().prepare(tmp_path, quiet)
    assert list(Mnist().problems(tmp_path)) == []


# -- CIFAR ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("python2", [True, False])
def test_batches_are_read_as_written_by_either_python(python2, tmp_path):
    for data_set, written in (
        (Cifar10(), write_cifar10(tmp_path, python2=python2)),
        (Cifar100(), write_cifar100(tmp_path, python2=python2)),
    ):
        for part, (pixels, labels) in written.items():
            found, own = data_set.read(tmp_path, part)
            assert np.array_equal(found.numpy(), pixels)
            assert np.array_equal(own.numpy(), labels)
            counts = np.bincount(labels, minlength=data_set.n_classes).tolist()
            assert data_set.class_counts(tmp_path, part) == counts


def test_the_small_batches_are_what_torchvision_reads(tmp_path, monkeypatch):
    """The files that these tests write are in the published format: torchvision's own class reads them the same."""
    written = write_cifar10(tmp_path)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_load_meta", lambda self: None)
    theirs = torchvision.datasets.CIFAR10(tmp_path, train=True)
    assert np.array_equal(theirs.data.transpose(0, 3, 1, 2), written["train"][0])
    assert theirs.targets == written["train"][1].tolist()


class Hostile:
    """Runs a command when it is unpickled the usual way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_is_refused_and_not_run(protocol, tmp_path):
    write_cifar10(tmp_path)
    path = Cifar10().files_of(tmp_path, "train")[2]
    mark = tmp_path / "was here"
    entries = batch(*images_and_labels(20, (3, 32, 32), 10, 0)) | {"x": Hostile(str(mark).replace(" ", r"\ "))}
    path.write_bytes(pickle.dumps(entries, protocol))
    with pytest.raises(MissingData) as caught:
        Cifar10().class_counts(tmp_path, "train")
    assert str(path) in str(caught.value)
    assert "the global 'posix.system'" in str(caught.value)
    assert "bnnbench data prepare cifar10" in str(caught.value)
    assert list(Cifar10().verify(tmp_path, quiet))
    assert not mark.exists()
    pickle.loads(path.read_bytes())  # what would have happened
    assert mark.exists()


def test_batches_with_other_content_are_refused(tmp_path):
    write_cifar10(tmp_path)
    path = Cifar10().files_of(tmp_path, "test")[0]
    pixels, labels = images_and_labels(20, (3, 32, 32), 10, 0)
    whole = pickled(batch(pixels, labels))
    for content, message in (
        (pickled(batch(pixels, labels, keys=("fine_labels",))), "lacks the array 'data' or the list 'labels'"),
        (pickled(batch(pixels, labels) | {"data": pixels.reshape(20, 3072).astype(float)}), "images f8"),
        (pickled(batch(pixels, labels) | {"labels": [0] * 19}), r"expected uint8 \(19, 3072\)"),
        (pickled(batch(pixels, labels) | {"labels": [0] * 19 + [10]}), "label 10; legal are 0 to 9"),
        (pickled([b"." * 4000]), "holds a list"),
        (whole[:30_000] + b".", "not a whole pickle"),
        (whole[:100] + bytes(2) + whole[103:], "not a whole pickle|lacks|images|label"),
    ):
        path.write_bytes(content)
        with pytest.raises(MissingData, match=message):
            Cifar10().read(tmp_path, "test")
        assert list(Cifar10().verify(tmp_path, quiet))
        assert len(Cifar10().read(tmp_path, "train")[1]) == 100


def test_counts_follow_a_file_that_was_replaced(tmp_path):
    write_cifar10(tmp_path, n_test=20)
    assert sum(Cifar10().class_counts(tmp_path, "test")) == 20
    write_cifar10(tmp_path, n_test=30)
    assert sum(Cifar10().class_counts(tmp_path, "test")) == 30


def test_a_flipped_byte_of_a_published_batch_is_found(tmp_path, monkeypatch):
    write_cifar100(tmp_path, n_train=50, n_test=10_000)
    path = Cifar100().files_of(tmp_path, "test")[0]
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "test_list", [["test", md5_of(path)]])
    assert list(Cifar100().verify(tmp_path, quiet)) == []
    change(path, path.stat().st_size // 2)
    (problem,) = Cifar100().verify(tmp_path, quiet)
    assert "another content" in problem


def pack(root, folder):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as packed:
        packed.add(root / folder, arcname=folder)
    return archive.getvalue()


def test_an_archive_in_the_data_root_is_unpacked_and_no_other_file(tmp_path, monkeypatch, server):
    write_cifar10(tmp_path / "made")
    root = tmp_path / "root"
    root.mkdir()
    (root / "cifar-10-python.tar.gz").write_bytes(pack(tmp_path / "made", "cifar-10-batches-py"))
    Cifar10().prepare(root, quiet)
    assert list(Cifar10().problems(root)) == []
    assert sorted(path.name for path in root.iterdir()) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]
    (root / "cifar-10-batches-py" / "data_batch_3").unlink()
    (root / "cifar-10-python.tar.gz").write_bytes(pack(tmp_path / "made", "cifar-10-batches-py")[:-50_000])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", server + "absent.tar.gz")
    with pytest.raises(MissingData, match=r"cannot be downloaded(.|\n)*put cifar-10-python.tar.gz into the data root"):
        Cifar10().prepare(root, quiet)


def test_an_archive_cannot_write_outside_of_its_folder(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / "evil.tar", "w") as packed:
        for name in ("../outside", "folder/../../outside", "/tmp/outside-of-the-archive", "folder/inside"):
            member = tarfile.TarInfo(name)
            member.size = 4
            packed.addfile(member, io.BytesIO(b"data"))
    fault = untar(root / "evil.tar", "folder", root)
    assert fault is not None
    assert "evil.tar" in fault
    assert not (tmp_path / "outside").exists()
    assert [path.name for path in root.iterdir()] == ["evil.tar"]


# -- SVHN -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [True, False])
def test_house_numbers_are_read_as_written_and_ten_is_zero(compress, tmp_path):
    pixels, digits = write_svhn(tmp_path, compress=compress)
    found, labels = Svhn().read(tmp_path)
    assert np.array_equal(found.numpy(), pixels)
    assert labels.tolist() == digits.tolist()
    assert 0 in labels.tolist()
    path = Svhn().path(tmp_path)
    path.write_bytes(path.read_bytes() + b"more")
    assert list(Svhn().problems(tmp_path))


def test_a_mat_file_with_other_content_is_refused(tmp_path):
    from scipy.io import savemat

    write_svhn(tmp_path)
    path = Svhn().path(tmp_path)
    change(path, path.stat().st_size // 2)
    with pytest.raises(MissingData, match="cannot be read"):
        Svhn().read(tmp_path)
    savemat(path, {"X": np.zeros((32, 32, 3, 4)), "y": np.ones((4, 1))})
    with pytest.raises(MissingData, match="lacks X, uint8"):
        Svhn().read(tmp_path)
    savemat(path, {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.zeros((4, 1))})
    with pytest.raises(MissingData, match="expected labels 1 to 10"):
        Svhn().read(tmp_path)


# -- CIFAR-10-C -------------------------------------------------------------------------------------------------------


def test_a_severity_is_its_rows(tmp_path):
    written, labels = write_corrupted(tmp_path, CORRUPTIONS, n=8)
    for severity in (1, 3, 5):
        found, own = Cifar10C().read(tmp_path, "fog", severity)
        rows = written["fog"][8 * (severity - 1) : 8 * severity]
        assert np.array_equal(found.numpy(), rows.transpose(0, 3, 1, 2))
        assert own.tolist() == labels.tolist()
    for corruption, severity in (("fog", 6), ("fog", 0), ("mist", 1)):
        with pytest.raises(ValueError, match="legal: gaussian_noise"):
            Cifar10C().read(tmp_path, corruption, severity)


def test_arrays_of_another_kind_are_problems_and_objects_are_not_unpickled(tmp_path):
    write_corrupted(tmp_path, CORRUPTIONS)
    path = Cifar10C().path(tmp_path, "snow")
    for array, message in (
        (np.zeros((40, 3, 32, 32), np.uint8), r"images of shape \(40, 3, 32, 32\), expected \(40, 32, 32, 3\)"),
        (np.zeros((35, 32, 32, 3), np.uint8), r"expected \(40, 32, 32, 3\)"),
        (np.array([Hostile(tmp_path / "ran")], dtype=object), "not a .npy file of numbers"),
        (np.asfortranarray(np.zeros((40, 32, 32, 3), np.uint8)), "in C order"),
    ):
        np.save(path, array)
        with pytest.raises(MissingData, match=message):
            Cifar10C().prepare(tmp_path, quiet)
    with pytest.raises(MissingData):
        Cifar10C().read(tmp_path, "snow", 1)
    np.save(path, np.zeros((40, 32, 32, 3), np.float32))
    with pytest.raises(MissingData, match="holds float32"):
        Cifar10C().read(tmp_path, "snow", 1)


def test_verify_finds_labels_that_differ_between_severities_and_black_images(tmp_path):
    write_corrupted(tmp_path, CORRUPTIONS)
    labels = np.load(Cifar10C().path(tmp_path, "labels"))
    labels[9] = (labels[9] + 1) % 10
    np.save(Cifar10C().path(tmp_path, "labels"), labels)
    assert "different labels" in "".join(Cifar10C().verify(tmp_path, quiet))
    written, _ = write_corrupted(tmp_path, CORRUPTIONS)
    np.save(
        Cifar10C().path(tmp_path, "frost"),
        np.concatenate([written["frost"][:20], np.zeros_like(written["frost"][20:])]),
    )
    (problem,) = Cifar10C().verify(tmp_path, quiet)
    assert "frost.npy: 20 images are black" in problem


def test_the_archive_of_the_corrupted_images_is_unpacked(tmp_path):
    write_corrupted(tmp_path / "made", CORRUPTIONS)
    with pytest.raises(MissingData, match=r"zenodo.org/records/2535967, put it into the data root"):
        Cifar10C().prepare(tmp_path, quiet)
    (tmp_path / "CIFAR-10-C.tar").write_bytes(pack(tmp_path / "made", "CIFAR-10-C"))
    Cifar10C().prepare(tmp_path, quiet)
    assert list(Cifar10C().problems(tmp_path)) == []


def test_an_idx_file_of_the_support_module_is_what_torchvision_reads(tmp_path):
    array = np.arange(24, dtype=np.uint8)
    write_idx(tmp_path / "labels", array)
    from torchvision.datasets.mnist import read_label_file

    assert read_label_file(tmp_path / "labels").tolist() == array.tolist()

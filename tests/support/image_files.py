"""Small files in exactly the formats in which MNIST, CIFAR, SVHN and CIFAR-C are published."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import ClassVar

import numpy as np


def images_and_labels(n, shape, n_classes, seed):
    """Random pixels (n, *shape) and labels that go round all classes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)
    return pixels, (np.arange(n) * 7 % n_classes).astype(np.uint8)


def write_idx(path: Path, array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">{array.ndim + 1}I", 0x800 + array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def write_mnist(root: Path, name="MNIST", n_train=60, n_test=20, seed=0):
    """The four files. Returns {"train": (pixels, labels), "test": ...}."""
    written = {}
    for part, stem, n in (("train", "train", n_train), ("test", "t10k", n_test)):
        pixels, labels = images_and_labels(n, (28, 28), 10, seed + n)
        write_idx(root / name / "raw" / f"{stem}-images-idx3-ubyte", pixels)
        write_idx(root / name / "raw" / f"{stem}-labels-idx1-ubyte", labels)
        written[part] = pixels, labels
    return written


class _Python2Pickler(pickle._Pickler):
    """Writes as the Python 2 that pickled CIFAR: all text and bytes as byte strings, and the numpy of its day."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def _save_string(self, value):
        raw = value if isinstance(value, bytes) else value.encode("latin-1")
        short = len(raw) < 256
        self.write((b"U" + bytes([len(raw)]) if short else b"T" + struct.pack("<i", len(raw))) + raw)
        self.memoize(value)

    def save_global(self, value, name=None):
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(b"c" + f"{module}\n{name or value.__qualname__}\n".encode())
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = _save_string
    dispatch[type] = save_global


def pickled(entries, python2=True) -> bytes:
    if not python2:
        return pickle.dumps(entries)
    out = io.BytesIO()
    _Python2Pickler(out, protocol=2).dump(entries)
    return out.getvalue()


def batch(pixels, labels, keys=("labels",)):
    """A dictionary as CIFAR's batches are."""
    n = len(labels)
    entries = {"batch_label": "training batch 1 of 5", **{key: labels.tolist() for key in keys}}
    return entries | {"data": pixels.reshape(n, 3072), "filenames": [f"image_s_{i:06}.png" for i in range(n)]}


def write_cifar10(root: Path, per_batch=20, n_test=20, python2=True, seed=0):
    """Five batches and the test batch. Returns {"train": (pixels (n, 3, 32, 32), labels), "test": ...}."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True, exist_ok=True)
    train = [images_and_labels(per_batch, (3, 32, 32), 10, seed + number) for number in range(1, 6)]
    test = images_and_labels(n_test, (3, 32, 32), 10, seed + 6)
    for number, part in enumerate(train, start=1):
        (folder / f"data_batch_{number}").write_bytes(pickled(batch(*part), python2))
    (folder / "test_batch").write_bytes(pickled(batch(*test), python2))
    return {"train": tuple(np.concatenate(both) for both in zip(*train, strict=True)), "test": test}


def write_cifar100(root: Path, n_train=300, n_test=100, python2=True, seed=50):
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for part, n in (("train", n_train), ("test", n_test)):
        pixels, labels = images_and_labels(n, (3, 32, 32), 100, seed + n)
        entries = batch(pixels, labels, keys=("fine_labels",)) | {"coarse_labels": (labels // 5).tolist()}
        (folder / part).write_bytes(pickled(entries, python2))
        written[part] = pixels, labels
    return written


def write_svhn(root: Path, n=30, seed=90, compress=True):
    """Returns pixels (n, 3, 32, 32) and the digits; the file holds (32, 32, 3, n), and 10 for the digit 0."""
    from scipy.io import savemat

    (root / "svhn").mkdir(parents=True, exist_ok=True)
    pixels, digits = images_and_labels(n, (3, 32, 32), 10, seed)
    entries = {"X": pixels.transpose(2, 3, 1, 0), "y": np.where(digits == 0, 10, digits).astype(np.uint8)[:, None]}
    savemat(root / "svhn" / "test_32x32.mat", entries, do_compression=compress)
    return pixels, digits


def write_corrupted(root: Path, corruptions, folder="CIFAR-10-C", n=8, n_classes=10, seed=70):
    """Returns {corruption: pixels (5n, 32, 32, 3)} and labels (n,)."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    _, labels = images_and_labels(n, (1,), n_classes, seed)
    np.save(root / folder / "labels.npy", np.tile(labels, 5))
    written = {}
    for number, corruption in enumerate(corruptions):
        written[corruption], _ = images_and_labels(5 * n, (32, 32, 3), n_classes, seed + number)
        np.save(root / folder / f"{corruption}.npy", written[corruption])
    return written, labels

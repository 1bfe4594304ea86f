"""The pickles that CIFAR is published as, read without running anything that a pickle may ask for.

A pickle can call any function of any module. The files of CIFAR need five: those that rebuild a numpy array and its
dtype, and `codecs.encode` for bytes. Stand-ins of our own take their place, that only keep what they are given; any
other name is refused. numpy comes in when an array is taken out.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.files.reading import damaged

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BROKEN = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)
"""What Python's unpickler raises for bytes that are no pickle, or half of one."""


class Refused(Exception):
    """The pickle asks for something that a file of CIFAR does not need."""


class _Dtype:
    """Stands in for `numpy.dtype`."""

    def __init__(self, code: str | bytes, *flags: object) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None:
        pass  # byte order and alignment: nothing that single bytes have


@dataclass
class _Array:
    """Stands in for `numpy.ndarray`: shape, dtype and bytes, as the pickle gives them."""

    shape: tuple[int, ...] = ()
    code: str = ""
    fortran: bool = False
    data: bytes = b""

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Dtype, bool, bytes | str]) -> None:
        _, self.shape, dtype, self.fortran, data = state
        self.code = dtype.code
        self.data = data.encode("latin-1") if isinstance(data, str) else bytes(data)


def _reconstruct(*kind: object) -> _Array:
    return _Array()


def _from_buffer(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    return _Array(shape, dtype.code, order == "F", bytes(data))


def _encode(text: str, encoding: str | bytes) -> bytes:
    if encoding not in ("latin1", b"latin1"):
        raise Refused(f"the encoding {encoding!r}")
    return text.encode("latin-1")


class _NdarrayName:
    """Stands in for the class `numpy.ndarray`, which a pickle names and nobody calls."""


ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NdarrayName,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
}
"""Old and new names: numpy moved its core in version 2."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise Refused(f"the global '{module}.{name}'")
        return ALLOWED[module, name]


@dataclass(frozen=True)
class Batch:
    """One file of CIFAR: images as they lie in it, and labels."""

    array: _Array
    labels: list[int]

    def pixels(self) -> NDArray[np.uint8]:
        """(n, 3, 32, 32), not writable: a view of the bytes."""
        import numpy as np

        return np.frombuffer(self.array.data, dtype=np.uint8).reshape(-1, 3, 32, 32)


def read_batch(data_set: str, path: Path, key: str, n_classes: int) -> Batch:
    """The images and the labels under `key` of a pickled batch.

    Raises:
        MissingData: not a whole pickle, or it asks for a function that it does not need, or it holds something else
            than uint8 (n, 3072) and n labels in 0..n_classes-1.
    """
    try:
        with open(path, "rb") as handle:
            found = _Unpickler(handle, encoding="bytes").load()
    except Refused as error:
        raise damaged(
            data_set, path, f"this pickle asks for {error}, which no file of CIFAR needs: it was refused and not run"
        ) from error
    except BROKEN as error:
        raise damaged(data_set, path, f"not a whole pickle ({type(error).__name__}: {error})") from error
    if not isinstance(found, dict):
        raise damaged(data_set, path, f"holds a {type(found).__name__}, expected a dictionary")
    entries = {name.decode() if isinstance(name, bytes) else name: value for name, value in found.items()}
    array, labels = entries.get("data"), entries.get(key)
    if not isinstance(array, _Array) or not isinstance(labels, list):
        raise damaged(
            data_set, path, f"lacks the array 'data' or the list '{key}'; it holds {sorted(map(str, entries))}"
        )
    expected = (len(labels), 3072)
    if array.code not in ("u1", "|u1") or array.fortran or array.shape != expected or prod(expected) != len(array.data):
        raise damaged(data_set, path, f"images {array.code} {array.shape}, expected uint8 {expected} by its labels")
    wrong = [label for label in labels if type(label) is not int or not 0 <= label < n_classes]
    if wrong:
        raise damaged(data_set, path, f"holds the label {wrong[0]!r}; legal are 0 to {n_classes - 1}")
    return Batch(array, labels)

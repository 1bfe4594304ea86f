"""Saved states of a run: atomic, versioned, verified, no pickles, generator states included.

A checkpoint is one safetensors file whose name carries the SHA-256 of its bytes. Trees of dict, list and plain values
go into the file's metadata as JSON, tensors beside them. The two newest are kept: when the newest is damaged, the
run goes on from the one before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmark.errors import CorruptFile, Interrupted
from benchmark.files import write_via

VERSION = 1
KEPT = 2
log = logging.getLogger("bnnbench")


def save_tree(path: Path, tree: Any) -> None:
    """Write a tree of dict, list, tuple, str, int, float, bool, None and tensors to `path`, atomically.

    Raises:
        TypeError: the tree holds something else; names the place.
    """
    tensors = _Tensors()
    skeleton = _pack(tree, tensors, "state")
    metadata = {"version": str(VERSION), "tree": json.dumps(skeleton)}
    write_via(path, lambda temporary: save_file(tensors.by_name, temporary, metadata=metadata))


def load_tree(path: Path) -> Any:
    """The inverse of `save_tree`, on the CPU; tuples come back as lists.

    Raises:
        CorruptFile: the file is damaged or of another version.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            if metadata.get("version") != str(VERSION):
                raise CorruptFile(f"{path} has checkpoint version {metadata.get('version')}, expected {VERSION}.")
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
        return _unpack(json.loads(metadata["tree"]), tensors)
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise CorruptFile(f"{path} cannot be read as a checkpoint ({error}).") from error


class CheckpointFolder:
    """The numbered, verified checkpoints of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, tree: Any) -> Path:
        """Write the next checkpoint and drop all but the newest two."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for torn in self.folder.glob(".*.tmp"):  # left by a process that was killed while it wrote
            torn.unlink(missing_ok=True)
        existing = self._files()
        number = 1 + (self._number(existing[-1]) if existing else 0)
        unverified = self.folder / f"{number:08d}.new"
        save_tree(unverified, tree)
        final = self.folder / f"{number:08d}-{_digest(unverified)}.safetensors"
        unverified.rename(final)
        for old in existing[: len(existing) + 1 - KEPT]:
            with contextlib.suppress(FileNotFoundError):
                old.unlink()
        return final

    def load(self) -> Any | None:
        """The newest checkpoint that verifies, or None. A damaged one is reported in the log and passed over."""
        for path in reversed(self._files()):
            try:
                if _digest(path) != path.stem.split("-", 1)[1]:
                    raise CorruptFile(f"{path} is damaged: its bytes do not match the digest in its name.")
                return load_tree(path)
            except CorruptFile as error:
                log.warning("%s Going on from the checkpoint before it, if there is one.", error)
        return None

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*-*.safetensors"))

    @staticmethod
    def _number(path: Path) -> int:
        return int(path.name.split("-", 1)[0])


class PeriodicCheckpoints:
    """Decides when an offered state is saved: after `seconds` since the last save, or at once when a stop is asked for.

    `wrap` adds what the suite itself must restore (generators, position in the history), `unwrap` restores it, or
    returns None for a state that must not be used.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        *,
        seconds: float,
        wrap: Callable[[Any], Any],
        unwrap: Callable[[Any], Any | None],
        stop_requested: Callable[[], bool],
        before_save: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder, self._seconds = folder, seconds
        self._wrap, self._unwrap = wrap, unwrap
        self._stop_requested, self._before_save = stop_requested, before_save
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        saved = self._folder.load()
        return None if saved is None else self._unwrap(saved)

    def offer(self, state: Callable[[], dict[str, Any]]) -> None:
        stop = self._stop_requested()
        if not stop and time.monotonic() - self._last < self._seconds:
            return
        self._before_save()
        self._folder.save(self._wrap(state()))
        self._last = time.monotonic()
        if stop:
            raise Interrupted("Stopped on request; the state is saved and the run can go on from here.")


def _digest(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:16]


class _Tensors:
    """Tensors on the CPU by number, each with a storage of its own: safetensors refuses views and shared memory."""

    def __init__(self) -> None:
        self.by_name: dict[str, Tensor] = {}
        self._storages: set[int] = set()

    def add(self, tensor: Tensor) -> str:
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        whole = storage.nbytes() == tensor.numel() * tensor.element_size()
        if not whole or storage.data_ptr() in self._storages:
            tensor = tensor.clone()
        self._storages.add(tensor.untyped_storage().data_ptr())
        name = str(len(self.by_name))
        self.by_name[name] = tensor
        return name


def _pack(value: Any, tensors: _Tensors, where: str) -> Any:
    if isinstance(value, Tensor):
        return {"$": "tensor", "v": tensors.add(value)}
    if isinstance(value, dict):
        items = [[_checked_key(k, where), _pack(v, tensors, f"{where}[{k!r}]")] for k, v in value.items()]
        return {"$": "dict", "v": items}
    if isinstance(value, list | tuple):
        return [_pack(item, tensors, f"{where}[{i}]") for i, item in enumerate(value)]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(
        f"{where} is a {type(value).__name__}; a checkpoint holds dict, list, str, int, float, bool, "
        "None and tensors. Convert it first."
    )


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if isinstance(value, dict):
        if value["$"] == "tensor":
            return tensors[value["v"]]
        return {_unpack(k, tensors): _unpack(v, tensors) for k, v in value["v"]}
    return value


def _checked_key(key: Any, where: str) -> Any:
    if key is None or isinstance(key, str | int | float):
        return key
    raise TypeError(f"{where} has the key {key!r}; keys of a checkpoint are str, int, float, bool and None.")


def torch_global_state(device: torch.device) -> dict[str, Tensor]:
    """States of torch's global generators of the CPU and of the run's device: other GPUs are none of its business."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_torch_global_state(state: dict[str, Tensor], device: torch.device) -> None:
    """The inverse of `torch_global_state`, on this or another device of the same kind."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)

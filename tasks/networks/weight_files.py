"""Files of weights as data sets: published ones below the data root, a user's own file, and the copy kept of it.

Nothing here imports torch until weights are fetched or verified.
"""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmark import ConfigError, DataSet, EnvironmentProblem, MissingData, digest_of, user_cache
from tasks.networks.file_heads import length_problems
from tasks.whole_files import copy_checked, make_folder, write_text, write_whole

FOLDER = "weights"
OWN_FOLDER = "files"
PUBLISHED_BYTES = {
    "resnet18": 46_796_448,
    "resnet34": 87_258_784,
    "resnet50": 102_440_608,
    "resnet101": 178_618_016,
    "densenet161": 115_603_744,
    "deit_tiny_patch16_224": 22_869_664,
    "deit_small_patch16_224": 88_202_656,
    "vit_base_patch16_224": 346_270_624,
}
"""Of the float32 parameters and running statistics of the networks that have a name of their own, for 1,000 classes."""


@dataclass(frozen=True)
class Source:
    """Published weights: `torchvision` or `timm`, the library's name of the network, and the tag of the weights."""

    library: str
    network: str
    tag: str

    @property
    def spelling(self) -> str:
        """As `pretrained` has it: `torchvision:IMAGENET1K_V1`."""
        return f"{self.library}:{self.tag}"

    @property
    def name(self) -> str:
        """The name of the file, without suffix: `torchvision.resnet50.IMAGENET1K_V1`."""
        return f"{self.library}.{self.network}.{self.tag}"


class WeightFile(DataSet):
    """One file of weights."""

    @abstractmethod
    def file(self, root: Path) -> Path:
        """Where it is."""

    def folder(self, root: Path) -> Path:
        return self.file(root).parent

    def paths(self, root: Path) -> Sequence[Path]:
        """The folder is shared with other weights."""
        return [self.file(root)]

    def problems(self, root: Path) -> Sequence[str]:
        path = self.file(root)
        return length_problems(path) if path.is_file() else [f"{path} is missing"]

    def verify(self, root: Path, say: Callable[[str], None]) -> Sequence[str]:
        found = list(self.problems(root))
        return found or _content_problems(self.file(root))

    def fingerprint(self, root: Path) -> str:
        return digest_of(self.file(root))


class PublishedWeights(WeightFile):
    """Weights that torchvision or timm publish, as ROOT/weights/NAME.safetensors, with a `sha256sum` line beside it."""

    def __init__(self, origin: Source, size: int = 0) -> None:
        """size: bytes, about; 0 where that is not known before they are fetched."""
        self.origin = origin
        self.name = f"weights-{origin.name}"
        self.title = f"{origin.library}'s weights {origin.tag} of {origin.network}"
        self.source = f"{origin.library}, downloaded by it from where its authors keep them"
        self.size = self.download = size

    def file(self, root: Path) -> Path:
        return root / FOLDER / f"{self.origin.name}.safetensors"

    def checksum(self, root: Path) -> Path:
        """The file with its SHA-256, which `prepare` writes."""
        return root / FOLDER / f"{self.origin.name}.safetensors.sha256"

    def problems(self, root: Path) -> Sequence[str]:
        if not self.file(root).is_file():
            self._refuse_unknown_tag()
        return super().problems(root)

    def verify(self, root: Path, say: Callable[[str], None]) -> Sequence[str]:
        found = list(super().verify(root, say))
        return found or [f"{path} is not the file that {self.checksum(root)} describes" for path in self.damaged(root)]

    def damaged(self, root: Path) -> Sequence[Path]:
        """By the checksum beside it, where there is one."""
        path = self.file(root)
        if self.problems(root):
            return []
        with suppress(FileNotFoundError):
            expected = self.checksum(root).read_text(encoding="utf-8").split()[:1]
            return [path] if expected != [digest_of(path)] else []
        return []

    def prepare(self, root: Path, say: Callable[[str], None]) -> None:
        path = self.file(root)
        if path.is_file() and not length_problems(path):
            return
        from tasks.networks import published

        say(f"{self.name}: {self.origin.library} fetches them")
        make_folder(path.parent)
        write_whole(path, lambda temporary: published.fetch(self.origin, temporary))
        line = f"{digest_of(path)}  {path.name}\n"
        write_whole(self.checksum(root), lambda temporary: write_text(temporary, line))

    def _refuse_unknown_tag(self) -> None:
        """Only when there is no file, which is the end of planning anyway: it imports the library."""
        from tasks.networks import published

        published.check_tag(self.origin)


class OwnFile(WeightFile):
    """A file that the user has named by its path. Nothing fetches it."""

    size, by_hand = 0, True
    manual = "It is a file of yours, which nothing can fetch: put it there, or change 'pretrained'."

    def __init__(self, path: Path) -> None:
        self.path = path
        place = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:8]  # many a folder has its own best.pth
        self.name = f"weights-{place}-{''.join(each if each.isalnum() or each in '._-' else '_' for each in path.name)}"
        self.title = "a file of weights"
        self.source = str(path)

    def file(self, root: Path) -> Path:
        return self.path

    def prepare(self, root: Path, say: Callable[[str], None]) -> None:
        if found := self.problems(root):
            raise MissingData(f"{self.name}: {found[0]}. {self.manual}")

    def keep(self, root: Path) -> None:
        """Copy it to where `StoredFile` of its digest looks, unless there is such a copy. Below a root that cannot be
        written nothing is copied: this user's cache on this machine notes where the file is, and runs read it there.

        Raises:
            EnvironmentProblem: the file changed meanwhile, or neither can be written.
        """
        stored = StoredFile(digest_of(self.path))
        kept = stored.copy(root)
        if kept.is_file() and kept.stat().st_size == self.path.stat().st_size:
            return
        if _writable(kept.parent):
            make_folder(kept.parent)
            write_whole(kept, lambda temporary: copy_checked(self.path, temporary, stored.digest))
        else:
            stored.remember(self.path)


class StoredFile(WeightFile):
    """A user's file of weights, copied when a study was planned: ROOT/weights/files/DIGEST.

    Where the data root cannot be written, CACHE/weights/DIGEST.path in the user's cache (beside digests.json) holds the
    absolute path of the original instead. That serves this user on this machine.
    """

    size, by_hand = 0, True
    manual = "It is copied there when a study that names the file by its path is planned: plan that study again."

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.name = f"weights-{digest[:12]}"
        self.title = f"a file of weights with the SHA-256 {digest}"
        self.source = "a study of yours"

    def file(self, root: Path) -> Path:
        copy = self.copy(root)
        original = None if copy.is_file() else self._remembered()
        return original or copy

    def copy(self, root: Path) -> Path:
        """Where a copy belongs."""
        return root / FOLDER / OWN_FOLDER / self.digest

    def remember(self, original: Path) -> None:
        """Read it where it is."""
        make_folder(self._note.parent)
        write_whole(self._note, lambda temporary: write_text(temporary, str(original.absolute())))

    @property
    def _note(self) -> Path:
        return user_cache() / "weights" / f"{self.digest}.path"

    def _remembered(self) -> Path | None:
        try:
            original = Path(self._note.read_text(encoding="utf-8"))
            return original if original.is_file() else None
        except (OSError, ValueError):  # no note, or half of one
            return None

    def verify(self, root: Path, say: Callable[[str], None]) -> Sequence[str]:
        found = list(super().verify(root, say))
        if not found and digest_of(self.file(root)) != self.digest:
            return [f"{self.file(root)} is damaged: its SHA-256 is not {self.digest}. Remove it"]
        return found

    def prepare(self, root: Path, say: Callable[[str], None]) -> None:
        if found := self.problems(root):
            raise MissingData(f"{self.name}: {found[0]}. {self.manual}")


def _writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or the folder can be made. Tried, because rights do not tell of file
    systems that are mounted for reading."""
    try:
        make_folder(folder)
        write_whole(folder / ".writable", lambda temporary: write_text(temporary, ""))
        (folder / ".writable").unlink(missing_ok=True)
    except (EnvironmentProblem, OSError):
        return False
    return True


def _content_problems(path: Path) -> list[str]:
    from tasks.networks.checkpoints import read

    try:
        read(path)
    except ConfigError as error:
        return [str(error)]
    return []

"""What the readers of published files share: faults told in one way, digests, and pieces of headers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from benchmark import MissingData, digest_of, prepare_command


def damaged(data_set: str, path: Path, what: str) -> MissingData:
    """The error for a file that is there and cannot be read as what it should be."""
    return MissingData(f"{data_set}: {path}: {what}\n  To mend it: remove the file, then: {prepare_command(data_set)}")


def not_whole(data_set: str, faults: Sequence[str]) -> MissingData:
    """The error for files that are missing or have the wrong size, one line each."""
    return MissingData(f"{data_set}: " + "\n  ".join([*faults, f"To mend it: {prepare_command(data_set)}"]))


def digest_of_files(paths: Sequence[Path]) -> str:
    """A hex digest of the files' names and contents, in the order given."""
    parts = [f"{path.name} {digest_of(path)}" for path in paths]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def md5_of(path: Path) -> str:
    """MD5 of a file, hex: the checksum that these data sets are published with. It finds damage, not malice."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def wrong_size(path: Path, found: int, expected: int) -> str:
    """One line on a file whose header announces another size than it has."""
    way = "truncated, its download or copy was interrupted" if found < expected else "something was appended to it"
    return f"{path}: {found:,} bytes, its header says {expected:,}: {way}"


def unlike_published(path: Path, found: str, expected: str) -> str:
    """One line on a file that has the published shape and other content."""
    return f"{path}: has the shape of the published file and another content (MD5 {found}, published {expected})"

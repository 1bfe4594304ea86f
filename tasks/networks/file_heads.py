"""Telling from its head what kind of weights a file holds, and whether it is cut off."""

from __future__ import annotations

import json
from pathlib import Path

HEADER_BYTES = 8
LONGEST_HEADER = 100_000_000
"""Bytes, the limit of safetensors."""


def is_safetensors(path: Path) -> bool:
    """By content: the length of a JSON object, and its first character."""
    with open(path, "rb") as handle:
        head = handle.read(HEADER_BYTES + 1)
    return head[HEADER_BYTES:] == b"{" and int.from_bytes(head[:HEADER_BYTES], "little") <= LONGEST_HEADER


def length_problems(path: Path) -> list[str]:
    """Whether a file is cut off, where its head tells: safetensors say how long they are. One line, or none."""
    length = path.stat().st_size
    if length == 0:
        return [f"{path} is empty"]
    if not is_safetensors(path):
        return []
    with open(path, "rb") as handle:
        n_header = int.from_bytes(handle.read(HEADER_BYTES), "little")
        header = handle.read(n_header)
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return [f"{path} is damaged: its header is not that of safetensors"]
    expected = HEADER_BYTES + n_header + max(ends, default=0)
    return [] if length == expected else [f"{path} has {length:,} bytes, its header says {expected:,}"]

"""Does a file hold its image to the end? Decoders fill in grey where a JPEG's data stop, and say nothing."""

from __future__ import annotations

import re

JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"

START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
BARE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers without a segment."""

AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""The next marker after compressed data, in which 0xFF is followed by 0 or is a restart marker."""


def lacks_end(data: bytes) -> bool:
    """Whether a JPEG or PNG has no end-of-image marker (ITU T.81, B.1.1.3) or IEND chunk. What follows it is no matter,
    and neither are the markers of a thumbnail inside. False for other formats."""
    if data.startswith(JPEG):
        return not _jpeg_ends(data)
    return data.startswith(PNG) and not _png_ends(data)


def _jpeg_ends(data: bytes) -> bool:
    place = len(JPEG)
    while place + 1 < len(data):
        marker = data[place + 1]
        if data[place] != 0xFF or marker == 0xFF:  # padding, or bytes that decoders skip too
            place += 1
        elif marker == END_OF_IMAGE:
            return True
        elif marker in BARE:
            place += 2
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4])
            if marker == START_OF_SCAN:
                following = AFTER_SCAN.search(data, place)
                place = following.start() if following else len(data)
    return False


def _png_ends(data: bytes) -> bool:
    """Chunks are: length of the content, type, content, checksum."""
    place = len(PNG)
    while place + 12 <= len(data):
        if data[place + 4 : place + 8] == b"IEND":
            return True
        place += 12 + int.from_bytes(data[place : place + 4])
    return False

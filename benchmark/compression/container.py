"""The file of an encoded posterior: a frame of named sections under a checksum. The whole format, version 1.

A varint is unsigned LEB128 in its shortest form; zz(x) is a varint of the zigzag number (0, -1, 1, -2 -> 0, 1, 2, 3).
Bits fill bytes from the least significant one, numbers low bit first. Words and floats are little-endian, arrays
row-major.

    file      "BNNB", varint version = 1, codec text, varint number of sections, one entry per section,
              the payloads in the same order, CRC-32 (zlib) of all before it in 4 bytes
    text      varint length, UTF-8
    entry     name text, kind byte, varint length of the payload
    shape     varint number of dimensions, varint per dimension
    table     varint count; per tensor: varint bytes shared with the previous name, varint further bytes, these
              bytes, shape
    U(n)      n unsigned numbers, nothing for n = 0; else byte k, varint bytes of the classes, the classes: per
              number c zeros and a one, padded to bytes; then per number k bits if c = 0, else the k + c - 1 bits
              below the leading one, padded to bytes
    header    byte dtype + 16 mode, shape; dtype: bool, uint8, int8, int16, int32, int64 = 0 ... 5

Payloads by kind:

    1 json      canonical JSON: sorted keys, no spaces, ASCII, no NaN
    2 tensor    byte 0 (float32) or 1 (float16), shape, values
    3 tensors   byte as above, table, values of one tensor after the other
    4 indices   header; mode 0: nothing if empty, else zz(minimum), byte width, values - minimum in `width` bits each;
                mode 1: zz(smallest value), varint n >= 2, U(n-1) gaps between the sorted distinct values less 1,
                U(n) zigzag differences of the count codes (first: from 0), then all symbols as ANS words.
                Count code q stands for q if q < 32, else (q - 16 e) 2^e with e = q // 16 - 1.
    5 gaussian  header, mode 0; nothing more if empty; else CRC-32 of the buckets (2 bytes each, in order of the
                elements), varint n, U(n) zigzag outliers, per rising shift s > 0 of a group the low s bits of its
                elements padded to bytes, then symbols as ANS words. Elements are ordered by bucket b, stably. s and
                b - 32 s follow from std in `gaussian_table`; with 2^(s-1) added modulo 2^64 (s > 0), the low s bits
                are `low`, the rest is `high` (arithmetic shift). Symbol: high + reach, or 2 reach + 1: an outlier.
    6 raw       any bytes
    7 generic   varint r, varint t, one xz stream (preset 9, no check) of r + t bytes: float32 values of the tensors
                in name order, then table, then one dtype byte per tensor (float32, float16, bfloat16, bool, uint8,
                int8, int16, int32, int64 = 0 ... 8)

ANS words: 32-bit words, a stack of which the last is on top; frequencies f of 24 bits in the order of the symbols
with running sums c. To start, fill a 64-bit state from the top: twice state = state 2^32 + word, as far as words go.
Per symbol: q = state mod 2^24; the symbol with c <= q < c + f; state = (state >> 24) f + q - c; if state < 2^32 and
words are left, state = state 2^32 + word. At the end the state is 0 and no word is left. Integer weights w (counts;
table of the Gaussian) become frequencies f = 1 + floor(w (2^24 - n) / sum w); what is missing to 2^24 goes to the
first largest.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from benchmark.compression.varint import Cursor, varint
from benchmark.errors import CorruptBitstream

MAGIC = b"BNNB"
FORMAT_VERSION = 1
_CRC_BYTES = 4


class Kind(IntEnum):
    """What a section holds; the number is part of the format."""

    JSON = 1
    TENSOR = 2
    TENSORS = 3
    INDICES = 4
    GAUSSIAN = 5
    RAW = 6
    GENERIC = 7


@dataclass(frozen=True)
class Section:
    """A named payload."""

    name: str
    kind: Kind
    payload: bytes | memoryview


def pack(codec: str, sections: Sequence[Section]) -> bytes:
    """The file of these sections."""
    head = bytearray(MAGIC) + varint(FORMAT_VERSION) + _text(codec) + varint(len(sections))
    for section in sections:
        head += _text(section.name) + bytes([section.kind]) + varint(len(section.payload))
    body = b"".join([bytes(head), *(section.payload for section in sections)])
    return body + zlib.crc32(body).to_bytes(_CRC_BYTES, "little")


def unpack(data: bytes) -> tuple[str, list[Section]]:
    """Codec and sections of a file; the payloads are views into `data`.

    Raises:
        CorruptBitstream: wrong magic, another version, wrong checksum, or a table that does not fit the length.
    """
    if not data.startswith(MAGIC):
        raise CorruptBitstream(f"these {len(data)} bytes are no encoded posterior (they do not begin with {MAGIC!r})")
    source = Cursor(memoryview(data)[: max(len(MAGIC), len(data) - _CRC_BYTES)], "encoded posterior")
    source.take(len(MAGIC))
    version = source.varint()
    if version != FORMAT_VERSION:
        raise CorruptBitstream(f"format version {version} of the encoded posterior; this code reads {FORMAT_VERSION}")
    if zlib.crc32(data[:-_CRC_BYTES]) != int.from_bytes(data[-_CRC_BYTES:], "little"):
        raise CorruptBitstream(f"the checksum over {len(data)} bytes is wrong: the file is damaged or truncated")
    codec = source.text(source.varint(source.left))
    entries = [_entry(source) for _ in range(source.varint(source.left))]
    sections = [Section(name, kind, source.take(size)) for name, kind, size in entries]
    source.end()
    if len({section.name for section in sections}) != len(sections):
        raise source.damaged("a section occurs twice")
    return codec, sections


def _entry(source: Cursor) -> tuple[str, Kind, int]:
    name = source.text(source.varint(source.left))
    number = source.byte()
    try:
        kind = Kind(number)
    except ValueError as error:
        raise source.damaged(f"section '{name}' is of unknown kind {number}") from error
    return name, kind, source.varint(source.left)


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return varint(len(encoded)) + encoded

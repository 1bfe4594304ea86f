"""The container: determinism, damage anywhere, forged content, and the bytes of format 1."""

from __future__ import annotations

import doctest
import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.compression import FORMAT_VERSION, BitReader, BitWriter, CorruptBitstream, integers, writer
from benchmark.compression.container import Kind, Section, pack
from benchmark.compression.shapes import write_shape
from benchmark.compression.varint import varint
from benchmark.errors import PluginError

STD = torch.tensor([0.0, 0.5, 3.0, 3.0, 100.0, 3.0])

# Written once by format 1 and kept: old files stay readable, and a change of the format shows itself.
GOLDEN = bytes.fromhex(
    "424e4e4201076578616d706c65070873657474696e6773013d057363616c65020c04726573740319066c6162656c7304"
    "15067061636b65640407026d75051b05627974657306027b226e616d6573223a5b2261222c225c7530306663225d2c22"
    "6e6f7468696e67223a6e756c6c2c226f6e223a747275652c2273746570223a302e32357d000201020000c03f000000c0"
    "010200086c2e7765696768740101020462696173000038003c0201400002f4ffd3ff4fff3ffdfff4ffd3ff4fff3f0502"
    "020105040a0501065c1aec5c0114010280840e0018772a5e240e00200100000000ffb5e8b2a2"
)
GOLDEN_GENERIC = bytes.fromhex(
    "424e4e42010767656e657269630105737461746507560c15fd377a585a000000ff12d941020021011c00000010cf58cc"
    "010020000080bf0000003f0000e040020006612e626961730102020573746570730000080000000000013121c7a2b2aa"
    "06729e7a010000000000595a4e397bcb"
)


def example() -> BitWriter:
    """A small file with every kind of section but the generic one."""
    out = BitWriter(codec="example")
    out.json("settings", {"step": 0.25, "names": ["a", "ü"], "on": True, "nothing": None})
    out.tensor("scale", torch.tensor([[1.5, -2.0]]))
    out.tensors("rest", {"l.weight": torch.tensor([0.5]), "l.bias": torch.tensor(1.0)}, "float16")
    out.indices("labels", torch.arange(64).remainder(9).square().clamp(max=3).to(torch.int8))
    out.indices("packed", torch.tensor([[7], [-3]]))
    out.gaussian_indices("mu", torch.tensor([0, 2, -3, 1, 345, 10**6]), STD)
    out.raw("bytes", b"\x00\xff")
    return out


def check_example(src: BitReader) -> None:
    assert src.codec == "example"
    assert src.json("settings") == {"step": 0.25, "names": ["a", "ü"], "on": True, "nothing": None}
    assert src.tensor("scale").tolist() == [[1.5, -2.0]]
    assert {name: t.tolist() for name, t in src.tensors("rest").items()} == {"l.weight": [0.5], "l.bias": 1.0}
    assert torch.equal(src.indices("labels"), torch.arange(64).remainder(9).square().clamp(max=3).to(torch.int8))
    assert src.indices("packed").tolist() == [[7], [-3]]
    assert src.gaussian_indices("mu", STD).tolist() == [0, 2, -3, 1, 345, 10**6]
    assert src.raw("bytes") == b"\x00\xff"
    src.finish()


def read_all(src: BitReader) -> None:
    """Read every section as what it says it is."""
    readers: dict[Kind, Callable[[str], Any]] = {
        Kind.JSON: src.json,
        Kind.TENSOR: src.tensor,
        Kind.TENSORS: src.tensors,
        Kind.INDICES: src.indices,
        Kind.GAUSSIAN: lambda name: src.gaussian_indices(name, STD),
        Kind.RAW: src.raw,
        Kind.GENERIC: lambda name: src.generic(),
    }
    for name, section in src._sections.items():
        readers[section.kind](name)


def test_every_kind_of_section_comes_back() -> None:
    check_example(BitReader(example().finish()))


def test_the_format_has_not_changed() -> None:
    assert FORMAT_VERSION == 1
    assert example().finish().hex() == GOLDEN.hex(), (
        "The bytes of the container changed. If that is meant, raise FORMAT_VERSION, keep reading version 1, and "
        f"add a second golden file:\n{example().finish().hex()}"
    )


def test_files_of_format_1_stay_readable() -> None:
    check_example(BitReader(GOLDEN))
    state = BitReader(GOLDEN_GENERIC).generic()
    assert {name: t.tolist() for name, t in state.items()} == {"a.bias": [-1.0, 0.5], "a.steps": 7}
    assert state["a.steps"].dtype == torch.int64


def test_the_frame_by_hand() -> None:
    out = BitWriter(codec="c")
    out.raw("n", b"hi")
    body = b"BNNB" + bytes([1]) + b"\x01c" + bytes([1]) + b"\x01n" + bytes([6, 2]) + b"hi"
    assert out.finish() == body + zlib.crc32(body).to_bytes(4, "little")


def test_finish_may_be_called_again_and_gives_the_same_bytes() -> None:
    out = example()
    assert out.finish() == out.finish() == example().finish()


def test_a_flipped_bit_anywhere_is_noticed() -> None:
    data = example().finish()
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises(CorruptBitstream):
                BitReader(bytes(damaged))


def test_an_overwritten_byte_anywhere_is_noticed() -> None:
    data = example().finish()
    for position in range(len(data)):
        for value in (0x00, 0x7F, 0x80, 0xFF):
            damaged = data[:position] + bytes([value]) + data[position + 1 :]
            if damaged != data:
                with pytest.raises(CorruptBitstream):
                    BitReader(damaged)


def test_a_truncation_anywhere_is_noticed() -> None:
    data = example().finish()
    for length in range(len(data)):
        with pytest.raises(CorruptBitstream):
            BitReader(data[:length])


def test_bytes_behind_the_end_are_noticed() -> None:
    for extra in (b"\x00", b"\n", bytes(4), example().finish()):
        with pytest.raises(CorruptBitstream):
            BitReader(example().finish() + extra)


@given(st.binary(max_size=60))
def test_no_bytes_give_another_exception(data: bytes) -> None:
    for candidate in (data, b"BNNB" + data, b"BNNB\x01" + data):
        with pytest.raises(CorruptBitstream):
            BitReader(candidate)


@given(st.binary(max_size=60))
def test_a_forged_table_with_a_right_checksum_gives_no_other_exception(table: bytes) -> None:
    body = b"BNNB\x01" + table
    try:
        read_all(BitReader(body + zlib.crc32(body).to_bytes(4, "little")))
    except CorruptBitstream:
        pass
    except ValueError as error:
        assert "std" in str(error)  # noqa: PT017


def read_forged(kind: Kind, payload: bytes) -> None:
    """Read a payload under a right checksum. Whatever it is, it is read or it is corrupt."""
    name = writer.GENERIC_SECTION
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integers, "MAX_ELEMENTS", 1 << 16)  # a constant array of 2^28 is legal and slow
        try:
            read_all(BitReader(pack("own", [Section(name, kind, payload)])))
        except CorruptBitstream:
            pass
        except ValueError as error:  # the caller's std does not fit: its shape, or its checksum
            assert kind == Kind.GAUSSIAN, error  # noqa: PT017


@settings(max_examples=300)
@given(st.sampled_from(Kind), st.binary(max_size=40))
def test_a_forged_payload_is_read_or_corrupt(kind: Kind, payload: bytes) -> None:
    read_forged(kind, payload)


def test_a_changed_bit_in_a_payload_under_a_right_checksum_is_read_or_corrupt() -> None:
    """The layer below the checksum: every codec stands a flip of every bit of its payload."""
    out = example()
    out.generic({"w": torch.arange(5.0), "n": torch.tensor(3)})
    for section in out._sections.values():
        payload = bytes(section.payload)
        for position in range(len(payload)):
            for bit in range(8):
                changed = bytearray(payload)
                changed[position] ^= 1 << bit
                read_forged(section.kind, bytes(changed))
            read_forged(section.kind, payload[:position])
        read_forged(section.kind, payload + b"\x00")


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (Kind.TENSOR, b"\x00" + write_shape((1 << 20, 1 << 20))),
        (Kind.TENSOR, b"\x00" + varint(2) + varint(0) + varint(1 << 60)),
        (Kind.TENSOR, b"\x00" + varint(1 << 40)),
        (Kind.TENSORS, b"\x00" + varint(1 << 40)),
        (Kind.TENSORS, b"\x00\x01\x00\x01a" + write_shape((1 << 40,))),
        (Kind.INDICES, b"\x05" + write_shape((1 << 40,)) + b"\x00\x00"),
        (Kind.INDICES, b"\x05" + write_shape((1 << 27,)) + b"\x00\x40"),
        (Kind.INDICES, b"\x15" + write_shape((1 << 27,)) + b"\x00" + varint(1 << 19)),
        (Kind.INDICES, b"\x15" + write_shape((1 << 27,)) + bytes.fromhex("0002" + "000101" + "010203" + "00000001")),
        (Kind.GAUSSIAN, b"\x05" + write_shape((1 << 40,))),
    ],
)
def test_a_forged_size_does_not_take_memory(kind: Kind, payload: bytes) -> None:
    src = BitReader(pack("own", [Section("s", kind, payload)]))
    with pytest.raises(CorruptBitstream):
        read_all(src)


def test_sections_tell_what_takes_the_bytes() -> None:
    data = example().finish()
    src = BitReader(data)
    sizes = src.sections()
    assert list(sizes) == ["settings", "scale", "rest", "labels", "packed", "mu", "bytes"]
    assert sizes["bytes"] == 2
    assert sizes["scale"] == 1 + 3 + 8
    assert sum(sizes.values()) + src.overhead == len(data)


def test_sections_may_be_read_in_any_order_and_again() -> None:
    src = BitReader(example().finish())
    assert src.raw("bytes") == src.raw("bytes")
    assert src.tensor("scale").shape == (1, 2)


def test_an_unread_section_is_a_defect_of_the_method() -> None:
    src = BitReader(example().finish())
    read_all(src)
    src.finish()
    src = BitReader(example().finish())
    src.raw("bytes")
    with pytest.raises(PluginError, match="unread: 'settings', 'scale', 'rest', 'labels', 'packed', 'mu'"):
        src.finish()


def test_a_missing_section_is_named() -> None:
    with pytest.raises(CorruptBitstream, match=r"section 'label' is not in .*\n  sections: settings, scale"):
        BitReader(example().finish()).indices("label")


def test_a_section_of_another_kind_is_named() -> None:
    with pytest.raises(CorruptBitstream, match="section 'labels' holds indices, tensor was asked for"):
        BitReader(example().finish()).tensor("labels")


def test_another_format_version_is_named() -> None:
    body = b"BNNB\x02"
    with pytest.raises(CorruptBitstream, match=r"format version 2 .* this code reads 1"):
        BitReader(body + zlib.crc32(body).to_bytes(4, "little"))


def test_a_name_is_used_once() -> None:
    out = BitWriter()
    out.raw("a", b"")
    with pytest.raises(ValueError, match="section 'a' was already written"):
        out.json("a", 1)


def test_empty_names_are_refused() -> None:
    with pytest.raises(ValueError, match="name of a section"):
        BitWriter().raw("", b"")
    with pytest.raises(ValueError, match="name of a codec"):
        BitWriter(codec="")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_any_json_value_comes_back(value: Any) -> None:
    out = BitWriter()
    out.json("v", value)
    back = BitReader(out.finish()).json("v")
    assert back == value
    again = BitWriter()
    again.json("v", back)
    assert again.finish() == out.finish()


def test_the_order_of_keys_does_not_matter() -> None:
    a, b = BitWriter(), BitWriter()
    a.json("v", {"x": 1, "y": (2, 3)})
    b.json("v", {"y": [2, 3], "x": 1})
    assert a.finish() == b.finish()


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        [math.inf],
        {1: "a"},
        [{None: 1}],
        {"a": {2.5: 1}},
        torch.ones(1),
        np.float32(1),
        {1, 2},
        nested(100_000),
    ],
)
def test_what_json_would_not_give_back_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        BitWriter().json("v", value)


@pytest.mark.parametrize("payload", [b"", b"{", b'{"b":1,"a":2}', b"1 ", b"NaN", b"1e999", b"\xff", b"[" * 100_000])
def test_json_that_is_not_canonical_is_corrupt(payload: bytes) -> None:
    with pytest.raises(CorruptBitstream):
        BitReader(pack("own", [Section("v", Kind.JSON, payload)])).json("v")


def test_the_example_of_the_writer_runs() -> None:
    names = {"BitWriter": BitWriter, "BitReader": BitReader, "torch": torch}
    result = doctest.testmod(writer, extraglobs=names)
    assert result.attempted == 5
    assert result.failed == 0

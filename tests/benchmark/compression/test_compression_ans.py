"""The entropy coder: exact integer models, and a second decoder written from the format description."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.compression import ans
from benchmark.compression.varint import Cursor
from benchmark.errors import CorruptBitstream


def decode_by_the_book(data: bytes, groups: list[tuple[int, list[int]]]) -> list[int]:
    """The ANS decoder of the format description; groups of (count, frequencies)."""
    words = np.frombuffer(data, dtype="<u4").tolist()
    state = 0
    for _ in range(2):
        if words:
            state = state << 32 | words.pop()
    symbols = []
    for count, freqs in groups:
        starts = [0, *np.cumsum(freqs).tolist()]
        for _ in range(count):
            q = state % 2**24
            symbol = max(i for i in range(len(freqs)) if starts[i] <= q)
            state = (state >> 24) * freqs[symbol] + q - starts[symbol]
            if state < 2**32 and words:
                state = state << 32 | words.pop()
            symbols.append(symbol)
    assert state == 0
    assert not words
    return symbols


@st.composite
def messages(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Weights of very different sizes, and symbols; rare symbols occur."""
    weights = draw(st.lists(st.integers(0, 2**38), min_size=2, max_size=12).filter(any))
    return weights, draw(st.lists(st.integers(0, len(weights) - 1), max_size=60))


@given(st.lists(messages(), min_size=1, max_size=4))
def test_a_decoder_written_from_the_description_agrees(parts: list[tuple[list[int], list[int]]]) -> None:
    freqs = [ans.frequencies(np.array(weights)) for weights, _ in parts]
    data = ans.encode([(np.array(s, dtype=np.int32), ans.model(f)) for (_, s), f in zip(parts, freqs, strict=True)])
    plan = [(len(s), f.tolist()) for (_, s), f in zip(parts, freqs, strict=True)]
    assert decode_by_the_book(data, plan) == [symbol for _, s in parts for symbol in s]
    decoder = ans.Decoder(Cursor(data, "x"))
    for (_, symbols), f in zip(parts, freqs, strict=True):
        assert decoder.decode(ans.model(f), len(symbols)).tolist() == symbols
    decoder.end()


@given(st.lists(st.integers(0, 2**38), min_size=2, max_size=300).filter(any))
def test_frequencies_are_positive_and_sum_to_2_to_the_24(weights: list[int]) -> None:
    freqs = ans.frequencies(np.array(weights))
    assert int(freqs.sum()) == 2**24
    assert int(freqs.min()) >= 1


def test_frequencies_by_hand() -> None:
    # free = 2^24 - 3 = 16777213; floor(free / 3) = 5592404, and 1 of the 3 left over goes to the first largest.
    assert ans.frequencies(np.array([0, 1, 2])).tolist() == [1, 5592405, 11184810]
    assert ans.frequencies(np.array([1, 1, 1])).tolist() == [5592406, 5592405, 5592405]


def test_the_coded_length_is_the_information_content() -> None:
    rng = np.random.default_rng(0)
    freqs = ans.frequencies(np.array([1, 10, 100, 10_000]))
    symbols = rng.choice(4, 20_000, p=freqs / 2**24).astype(np.int32)
    bits = -np.log2(freqs[symbols] / 2**24).sum()
    assert math.ceil(bits / 8) <= len(ans.encode([(symbols, ans.model(freqs))])) <= bits / 8 + 8


def test_nothing_takes_no_bytes() -> None:
    freqs = ans.frequencies(np.array([1, 1]))
    assert ans.encode([(np.zeros(0, dtype=np.int32), ans.model(freqs))]) == b""


def test_a_wrong_number_of_symbols_is_noticed() -> None:
    freqs = ans.frequencies(np.array([1, 2, 3]))
    data = ans.encode([(np.array([1, 2, 1, 2, 0, 1], dtype=np.int32), ans.model(freqs))])
    decoder = ans.Decoder(Cursor(data, "x"))
    decoder.decode(ans.model(freqs), 5)
    with pytest.raises(CorruptBitstream, match="do not end where they should"):
        decoder.end()


@pytest.mark.parametrize(("data", "message"), [("010203", "whole 32-bit"), ("0100000000000000", "zero word")])
def test_impossible_words_are_corrupt(data: str, message: str) -> None:
    with pytest.raises(CorruptBitstream, match=message):
        ans.Decoder(Cursor(bytes.fromhex(data), "x"))

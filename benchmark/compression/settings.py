"""Small settings as canonical JSON: equal values, equal bytes."""

from __future__ import annotations

import json
from typing import Any

from benchmark.compression.varint import Cursor


def encode_json(value: Any) -> bytes:
    """JSON with sorted keys, without spaces, in ASCII.

    Raises:
        ValueError: NaN or infinity, a key that is not text, or a type that JSON does not have.
    """
    try:
        _check_keys(value)
        return _canonical(value)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not writable as JSON: {error}") from error


def decode_json(source: Cursor) -> Any:
    """The inverse of `encode_json`; tuples come back as lists."""
    payload = bytes(source.rest())
    try:
        value = json.loads(payload)
        canonical = _canonical(value)
    except (ValueError, RecursionError) as error:
        raise source.damaged(f"not JSON ({error})") from error
    if canonical != payload:
        raise source.damaged("JSON that is not canonical")
    return value


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _check_keys(value: Any) -> None:
    # json.dumps turns 1, 1.5 and None into texts without a word: the value would not come back.
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r} is not text; JSON objects have text keys only")
            _check_keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_keys(item)

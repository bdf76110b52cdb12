"""A body as JSON that can be read: what clients really send, and what it is meant to be.

JavaScript cuts strings in the middle of an emoji, some editors put a byte order mark before a text,
and languages with one type of number write whole ones as 16.0.
"""

import re
from typing import Any

import msgspec

from device_runtime.api.errors import invalid
from device_runtime.grammar.schemas import is_deeper_than

MAX_LEVELS = 500
"""Of objects and lists in one another in what is written down again: Python writes 900 or so."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OTHER_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
# JSON begins with characters of ASCII, whose codes have zero bytes in these encodings.
_ZEROS = {(0, 2): "UTF-16", (1, 3): "UTF-16", (0, 1, 2): "UTF-32", (1, 2, 3): "UTF-32"}

# An escaped backslash, so that what follows it is no escape; both halves; or any half.
_HALVES = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
# The same halves not escaped, as no UTF-8 has them.
_RAW_HALVES = re.compile(rb"(?:\xed[\xa0-\xbf][\x80-\xbf])+")


def without_mark(body: bytes) -> bytes:
    """The body without a byte order mark of UTF-8.

    Raises:
        ApiError: 400 `invalid_json`: another encoding, which is named.
    """
    for mark, encoding in _OTHER_MARKS:
        if body.startswith(mark):
            raise _wrong_encoding(encoding)
    zeros = tuple(place for place, byte in enumerate(body[:4]) if byte == 0)
    if zeros in _ZEROS:
        raise _wrong_encoding(_ZEROS[zeros])
    return body.removeprefix(_BYTE_ORDER_MARK)


def with_whole_characters(body: bytes) -> bytes:
    """The body with U+FFFD for each half of a character that has lost the other."""
    body = _RAW_HALVES.sub(lambda halves: _joined(halves[0]), body)
    return _HALVES.sub(lambda found: rb"\ufffd" if found[1] else found[0], body)


def with_whole_numbers(value: Any) -> Any:
    """A decoded value with integers for the whole ones among its floats."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        return [with_whole_numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: with_whole_numbers(item) for key, item in value.items()}
    return value


def json_within(text: str) -> Any:
    """What a text within a body says, which is JSON itself.

    Raises:
        ValueError: it is not, or is nested too deeply to be read.
    """
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def check_depth(value: Any, where: str) -> None:
    """Whether a value that is written down again, in a prompt or an answer, can be.

    Raises:
        ApiError: 400, more levels of objects and lists than that.
    """
    if is_deeper_than(value, MAX_LEVELS):
        raise invalid(where, f"{where}: expected at most {MAX_LEVELS} levels of objects and lists")


def _joined(halves: bytes) -> bytes:
    """Surrogates as bytes of UTF-8: pairs become the character, others U+FFFD."""
    units = halves.decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass")
    return units.decode("utf-16-le", "replace").encode()


def _wrong_encoding(encoding: str) -> Exception:
    message = f"the request body is not valid JSON: expected UTF-8, got {encoding}"
    return invalid(None, message, code="invalid_json")

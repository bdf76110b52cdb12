"""The field `logit_bias`: its keys are strings, as all keys of JSON are."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from device_runtime.api.errors import ApiError, invalid

MAX_BIAS = 100.0

_TOKEN_ID = re.compile(r"([0-9]{1,10})(?:\.0+)?", re.ASCII)


def logit_biases(given: Mapping[str, Any], vocab_size: int) -> dict[int, float]:
    """The addends by token id.

    Raises:
        ApiError: 400, naming the first key that is no token id or has no such bias.
    """
    return dict(_bias(key, value, vocab_size) for key, value in given.items())


def _bias(key: str, value: Any, vocab_size: int) -> tuple[int, float]:
    match = _TOKEN_ID.fullmatch(key)
    if match is None or int(match[1]) >= vocab_size:
        raise _wrong(f"expected token ids below {vocab_size} as keys, got {key[:40]!r}")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not -MAX_BIAS <= value <= MAX_BIAS:
        came = msgspec.json.encode(value)[:40].decode(errors="ignore")
        raise _wrong(f"expected a number from -100 to 100 for the token {key!r}, got {came}")
    return int(match[1]), float(value)


def _wrong(problem: str) -> ApiError:
    return invalid("logit_bias", f"logit_bias: {problem}")

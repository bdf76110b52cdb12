"""How an answer is sampled: by its request, else by settings, the model's file, OpenAI."""

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec

from device_runtime.api.errors import ApiError, invalid
from device_runtime.api.request.body import CommonFields
from device_runtime.generation.request import SamplingParams

FILE = "generation_config.json"
SETTING = "--sampling-defaults"
OPENAI = "OpenAI's default"

MAX_BIAS = 100.0

# Keys of JSON are strings, and some languages write every number with a fraction.
_TOKEN_ID = re.compile(r"([0-9]{1,10})(?:\.0+)?", re.ASCII)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """Values for fields that a request leaves out; `sources` names where those not OpenAI's are of.

    The values that stand here are OpenAI's. Whether a file says `do_sample` is not looked at: a
    client that wants greedy answers says so, as with vLLM.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    sources: Mapping[str, str] = field(default_factory=dict)

    def values(self) -> dict[str, float]:
        """Every value by the name of its field."""
        return {name: getattr(self, name) for name in FIELDS}

    def described(self) -> str:
        """One line of what is not OpenAI's, and where it is from."""
        groups: dict[str, list[str]] = {}
        for name, source in self.sources.items():
            groups.setdefault(source, []).append(f"{name} {getattr(self, name):g}")
        if not groups:
            return "OpenAI's defaults (temperature 1)"
        return "; ".join(f"{', '.join(values)} ({source})" for source, values in groups.items())


FIELDS = tuple(f.name for f in fields(SamplingDefaults) if f.name != "sources")


def sampling_defaults(file: Mapping[str, Any], settings: Sequence[str]) -> SamplingDefaults:
    """The defaults of a server.

    Args:
        file: The model's generation_config.json. A value out of range is left out, with a warning.
        settings: Texts like `temperature=0.6`, which win over the file.

    Raises:
        ValueError: a setting that is none.
    """
    values: dict[str, float] = {}
    sources: dict[str, str] = {}
    for name in FIELDS:
        if file.get(name) is None:
            continue
        try:
            values[name] = _checked(name, file[name])
        except ValueError as error:
            _log.warning("%s: %s is not used: %s", FILE, name, error)
            continue
        sources[name] = FILE
    for text in settings:
        name, _, value = text.partition("=")
        if name not in FIELDS:
            raise ValueError(f"expected NAME=VALUE with one of {', '.join(FIELDS)}, got {text!r}")
        values[name] = _checked(name, _number(text, value))
        sources[name] = SETTING
    return SamplingDefaults(**values, sources=sources)  # type: ignore[arg-type]


def sampling_params(
    request: CommonFields, vocab_size: int, defaults: SamplingDefaults
) -> SamplingParams:
    """How a prompt's first choice is sampled; fields left out have the server's defaults.

    Raises:
        ApiError: 400, a wrong key or value of `logit_bias`, or a token id that is none.
    """
    return SamplingParams(
        temperature=_or(request.temperature, defaults.temperature),
        top_p=_or(request.top_p, defaults.top_p),
        top_k=defaults.top_k if request.top_k is None else max(request.top_k, 0),
        min_p=_or(request.min_p, defaults.min_p),
        seed=None if request.seed is None else seed_of_choice(request.seed, 0),
        presence_penalty=_or(request.presence_penalty, 0.0),
        frequency_penalty=_or(request.frequency_penalty, 0.0),
        repetition_penalty=_or(request.repetition_penalty, defaults.repetition_penalty),
        logit_bias=logit_biases(request.logit_bias or {}, vocab_size),
        allowed_token_ids=_allowed(request.allowed_token_ids, vocab_size),
    )


def seed_of_choice(seed: int, number: int) -> int:
    """The seed of one of several choices, in [0, 2**64).

    The first choice has the request's own, so that it does not depend on `n`; the others have
    hashes of it. A negative seed is taken modulo 2**64.
    """
    if number == 0:
        return seed % 2**64
    digest = hashlib.blake2b(b"%d/%d" % (seed, number), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def logit_biases(given: Mapping[str, Any], vocab_size: int) -> dict[int, float]:
    """The addends by token id.

    Raises:
        ApiError: 400, naming the first key that is no token id or has no such bias.
    """
    return dict(_bias(key, value, vocab_size) for key, value in given.items())


def _number(text: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"expected a number, got {text!r}") from None


def _checked(name: str, value: object) -> float:
    """A value that a request may have for the field, in the form in which it is used."""
    if name == "top_k" and isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        checked: float = getattr(msgspec.convert({name: value}, CommonFields), name)
    except msgspec.ValidationError as error:
        problem = str(error).partition(" - at ")[0]
        raise ValueError(f"{problem[:1].lower()}{problem[1:]}, got {value!r}") from None
    return max(checked, 0)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _allowed(ids: Sequence[int] | None, vocab_size: int) -> Sequence[int] | None:
    if ids and max(ids) >= vocab_size:
        expected = f"expected token ids below {vocab_size}, got {max(ids)}"
        raise invalid("allowed_token_ids", f"allowed_token_ids: {expected}")
    return ids


def _bias(key: str, value: Any, vocab_size: int) -> tuple[int, float]:
    match = _TOKEN_ID.fullmatch(key)
    if match is None or int(match[1]) >= vocab_size:
        raise _wrong_bias(f"expected token ids below {vocab_size} as keys, got {key[:40]!r}")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not -MAX_BIAS <= value <= MAX_BIAS:
        came = msgspec.json.encode(value)[:40].decode(errors="ignore")
        raise _wrong_bias(f"expected a number from -100 to 100 for the token {key!r}, got {came}")
    return int(match[1]), float(value)


def _wrong_bias(problem: str) -> ApiError:
    return invalid("logit_bias", f"logit_bias: {problem}")

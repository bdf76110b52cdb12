"""How an answer is sampled when its request does not say: settings, the model's file, OpenAI."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec

from device_runtime.api.request.body import CommonFields

FILE = "generation_config.json"
SETTING = "--sampling-defaults"
OPENAI = "OpenAI's default"

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

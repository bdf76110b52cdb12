"""Settings of GPTQ that differ by module: patterns of names, which except a module or change it.

Source: `dynamic_get` of GPTQModel, as vLLM has it too: the first pattern that fits a name's
beginning counts; `-:` before it leaves the module as it was.
"""

import re
from collections.abc import Mapping
from typing import Any

from submodels.checkpoint.quantised.settings import refuse_unknown
from submodels.errors import UnsupportedModelError

DYNAMIC = "dynamic"
_EXCEPT, _CHANGE = "-:", "+:"

Rules = tuple[tuple[re.Pattern[str], Mapping[str, Any] | None], ...]
"""Patterns in their order, with what each changes; None: nothing is quantised there."""


def rules_of(settings: Mapping[str, Any], known: frozenset[str], method: str) -> Rules:
    """The rules of a checkpoint's settings.

    Raises:
        UnsupportedModelError: rules that are none, or a setting in one that is not known.
    """
    told = settings.get(DYNAMIC) or {}
    if not isinstance(told, dict):
        raise UnsupportedModelError(f"{method}: expected {DYNAMIC} by patterns, got {told!r:.60}")
    rules = []
    for text, changes in told.items():
        is_kept = text.startswith(_EXCEPT)
        if not is_kept:
            if not isinstance(changes, dict):
                raise UnsupportedModelError(
                    f"{method}: expected settings for {text!r:.60}, got {changes!r:.60}"
                )
            refuse_unknown(changes, known, method, f"{DYNAMIC} {text!r:.60}")
        try:
            pattern = re.compile(text.removeprefix(_EXCEPT if is_kept else _CHANGE))
        except re.error as error:
            raise UnsupportedModelError(f"{method}: {text!r:.60} is no pattern: {error}") from error
        rules.append((pattern, None if is_kept else changes))
    return tuple(rules)


def settings_of(module: str, settings: Mapping[str, Any], rules: Rules) -> Mapping[str, Any] | None:
    """The settings that hold for a module; None: it is not quantised."""
    for pattern, changes in rules:
        if pattern.match(module):
            return None if changes is None else {**settings, **changes}
    return settings

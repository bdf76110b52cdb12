"""`--print-config`: settings as a TOML table that can be used as it is, each with its source."""

import json
from pathlib import Path

from hat.settings.programs import C
from hat.settings.setting import Setting, Value
from hat.settings.sources import Given, Resolved


def as_toml(resolved: Resolved[C]) -> str:
    """A TOML table with a comment on each line: where the value came from. Secrets are masked."""
    lines, notes = [], []
    for setting in resolved.program.settings:
        given = resolved.given.get(setting.name)
        lines.append((_assignment(setting, given), "required" if given is None else given.source))
        # What the value auto leads to, where the word alone does not say it.
        if setting.about.auto is not None and given is not None and given.value == "auto":
            notes.append(f"# {setting.key} auto: {setting.about.auto}")
    width = max(len(assignment) for assignment, _ in lines)
    rows = [f"{assignment:{width}}  # {source}" for assignment, source in lines]
    return "\n".join([f"[{resolved.program.name}]", *rows, *notes])


def _assignment(setting: Setting, given: Given | None) -> str:
    if given is None:
        return f"# {setting.key} is missing"
    if setting.about.secret:
        return f"# {setting.name} is {'not set' if given.value is None else 'set: ********'}"
    if given.value is None:
        return f"# {setting.key} is not set"
    return f"{setting.key} = {_toml_value(given.value)}"


def _toml_value(value: Value) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_string(part) for part in value) + "]"
    if isinstance(value, str | Path):
        return _toml_string(str(value))
    return json.dumps(value)


def _toml_string(text: str) -> str:
    """A TOML basic string: JSON's escapes, but other characters as they are, save DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

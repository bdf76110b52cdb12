"""The tables of docs/configuration.md, made from the settings themselves.

`python -m tests.support.configuration_tables` writes them into the document.
"""

import re
from pathlib import Path
from typing import Any

from hat.settings.programs import CLOUD, DEVICE, Program
from hat.settings.setting import Setting

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
_MARKED = "<!-- settings of hat {name} -->\n{table}\n<!-- end -->"


def with_fresh_tables(text: str) -> str:
    """The document with the table of each program replaced by one made now."""
    for program in (CLOUD, DEVICE):
        pattern = _MARKED.format(name=program.name, table=".*?")
        fresh = _MARKED.format(name=program.name, table=_table(program))
        text, num_found = re.subn(pattern, lambda _, new=fresh: new, text, flags=re.DOTALL)
        assert num_found == 1, f"no place for the table of hat {program.name}"
    return text


def _table(program: Program[Any]) -> str:
    rows = [
        "| flag | environment | TOML key | value | default | |",
        "|---|---|---|---|---|---|",
        *(_row(setting) for setting in program.settings),
    ]
    return "\n".join(rows)


def _row(setting: Setting) -> str:
    about = setting.about
    flag = setting.name.upper() if about.argument else setting.flag
    cells = [
        f"`{flag}`",
        "<br>".join(f"`{name}`" for name in setting.variables),
        f"`{setting.key}`",
        _values(setting),
        _default(setting),
        about.help.replace("|", "\\|"),
    ]
    return f"| {' | '.join(cells)} |"


def _values(setting: Setting) -> str:
    about = setting.about
    if about.secret:
        return "file; variables hold the secret itself"
    if setting.choices:
        return ", ".join(f"`{choice}`" for choice in setting.choices)
    words = "tokens" if about.tokens else setting.words.removeprefix("a ").removeprefix("an ")
    if about.minimum is not None and about.maximum is not None:
        return f"{words}, {about.minimum:,.0f} to {about.maximum:,.0f}"
    return words if about.minimum is None else f"{words}, at least {about.minimum:,.0f}"


def _default(setting: Setting) -> str:
    if setting.needed:
        return "required"
    if setting.default is None or setting.default == ():
        return "none"
    if isinstance(setting.default, tuple):
        return ", ".join(f"`{part}`" for part in setting.default)
    return f"`{setting.default}`"


if __name__ == "__main__":
    DOCUMENT.write_text(with_fresh_tables(DOCUMENT.read_text()))

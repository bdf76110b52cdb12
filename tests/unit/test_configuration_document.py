"""docs/configuration.md says what the program does."""

import re

import click
import pytest

from hat.cli import hat
from tests.support.configuration_tables import DOCUMENT, with_fresh_tables


def test_the_tables_are_fresh() -> None:
    """Stale? `python -m tests.support.configuration_tables` rewrites them."""
    text = DOCUMENT.read_text()
    assert with_fresh_tables(text) == text


@pytest.mark.parametrize("name", [name for name, one in hat.commands.items() if not one.hidden])
def test_every_flag_of_every_command_is_in_its_section(name: str) -> None:
    sections = re.split(r"^## ", DOCUMENT.read_text(), flags=re.MULTILINE)
    section = next(text for text in sections if text.startswith(f"`hat {name}`"))
    text = section + sections[0]
    command = hat.commands[name]
    commands = command.commands.values() if isinstance(command, click.Group) else [command]
    options = [p for one in commands for p in one.params if isinstance(p, click.Option)]
    flags = {flag for option in options for flag in option.opts}
    assert {flag for flag in flags if f"`{flag}`" not in text} == set()

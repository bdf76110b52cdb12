"""Command line flags made from a program's settings, and the settings made from the flags."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from hat.settings.programs import C, Program, Setting
from hat.settings.sources import Resolved
from hat.settings.values import Value

F = TypeVar("F", bound=Callable[..., Any])

CONFIG_VARIABLE = "HAT_CONFIG"


def settings_options(program: Program[C]) -> Callable[[F], F]:
    """One flag (or argument) for every setting, then --config and --print-config."""

    def add(command: F) -> F:
        print_config_option(command)
        config_option(command)
        for setting in reversed(program.settings):
            setting_option(setting)(command)
        return command

    return add


def config_option(command: F) -> F:
    """The --config flag."""
    return click.option(
        "--config",
        metavar="FILE",
        help=f"TOML file with tables [cloud] and [device]; also {CONFIG_VARIABLE}.",
    )(command)


def print_config_option(command: F) -> F:
    """The --print-config flag."""
    return click.option(
        "--print-config",
        is_flag=True,
        help="Print every setting and its source as TOML, and exit.",
    )(command)


def setting_option(setting: Setting) -> Callable[[F], F]:
    """The flag of one setting; its text is read later, where the other sources are."""
    about, base = setting.about, setting.kind.base
    text = about.help + _default_note(setting.default)
    if about.argument:
        return click.argument(setting.key, required=False)
    if base is bool:
        return click.option(setting.flag, setting.key, flag_value="true", help=text)
    usual = "FILE" if about.secret else "TOKENS" if about.tokens else setting.kind.metavar
    metavar = about.metavar or usual
    # A list may be given in one text or flag by flag.
    is_list = base is tuple
    return click.option(setting.flag, setting.key, metavar=metavar, help=text, multiple=is_list)


def flags_of(program: Program[C], parameters: Mapping[str, Any]) -> dict[str, str]:
    """The flags of this program that were given, by setting key, as text."""
    found = {}
    for setting in program.settings:
        value = parameters.get(setting.key)
        text = ",".join(value) or None if isinstance(value, tuple) else value
        if text is not None:
            found[setting.key] = text
    return found


def config_file(parameters: Mapping[str, Any]) -> Path | None:
    """The TOML file that was named, if any."""
    file = parameters.get("config") or os.environ.get(CONFIG_VARIABLE)
    return Path(file).expanduser() if file else None


def show_notes(resolved: Resolved[C]) -> None:
    """What the user should know about how the settings were read, on stderr."""
    for note in resolved.notes:
        click.echo(f"hat: {note}", err=True)


def _default_note(default: Value) -> str:
    if default is None:
        return ""
    text = ",".join(default) if isinstance(default, tuple) else f"{default}"
    return f"  [default: {text}]"

"""Command line flags made from a program's settings, and the settings made from the flags."""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from hat.settings.programs import C, Program
from hat.settings.setting import Setting
from hat.settings.sources import Sources

F = TypeVar("F", bound=Callable[..., Any])

CONFIG_VARIABLE = "HAT_CONFIG"

config_option = click.option(
    "--config",
    metavar="FILE",
    help=f"TOML file with tables [cloud] and [device]; also {CONFIG_VARIABLE}.",
)
print_config_option = click.option(
    "--print-config", is_flag=True, help="Print every setting and its source as TOML, and exit."
)


class FiniteRange(click.FloatRange):
    """A number within bounds. click's own range has nan in every one of them."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number.

        Raises:
            click.BadParameter: it is none, infinite, or outside.
        """
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def settings_options(program: Program[C]) -> Callable[[F], F]:
    """One flag (or argument) for every setting, then --config and --print-config."""

    def add(command: F) -> F:
        options = [*map(setting_option, program.settings), config_option, print_config_option]
        for option in reversed(options):
            option(command)
        return command

    return add


def setting_option(setting: Setting) -> Callable[[F], F]:
    """The flag of one setting; its text is read later, where the other sources are."""
    about, default = setting.about, setting.default
    if about.argument:
        return click.argument(setting.key, required=False)
    # A list may be given in one text or flag by flag.
    is_list = setting.base is tuple
    shown = ",".join(default) if isinstance(default, tuple) else default
    text = about.help if default is None else f"{about.help}  [default: {shown}]"
    if setting.base is bool:
        return click.option(setting.flag, setting.key, flag_value="true", help=text)
    return click.option(
        setting.flag, setting.key, metavar=setting.metavar, help=text, multiple=is_list
    )


def sources_of(program: Program[C], parameters: Mapping[str, Any], **spelled: str) -> Sources:
    """Where a command's settings may come from: its own parameters, the environment, a file.

    `spelled` names flags that the command calls differently than the program does.
    """
    flags = {}
    for setting in program.settings:
        value = parameters.get(setting.key)
        text = (",".join(value) if value else None) if isinstance(value, tuple) else value
        if text is not None:
            flags[setting.key] = text
    file = parameters["config"] or os.environ.get(CONFIG_VARIABLE)
    return Sources(flags, os.environ, Path(file).expanduser() if file else None, spelled)

"""`hat bench`: measure this project, simulate it, and make pages of what was measured."""

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import click

from hat.errors import CommandError

_COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "live": ("hat.commands.bench_live", "live"),
        "sim": ("hat.commands.bench_sim", "sim"),
        "report": ("hat.commands.bench_report", "report"),
        "make-model": ("hat.commands.bench_model", "make_model"),
    }
)
"""Where each command is; its module is loaded when it is asked for."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, (module, _) in _COMMANDS.items() if find_spec(module) is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        _check_installed()
        module, name = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        _check_installed()
        return super().invoke(ctx)


def _check_installed() -> None:
    if find_spec("bench") is None:
        raise CommandError(
            "the benchmarks are not part of this installation; run this in a checkout of hat's "
            "sources: pip install -e '.[all]'"
        )


@click.group(cls=_Commands)
def bench() -> None:
    """Measure, simulate, and report.

    `live` runs real processes over a shaped link, `sim` the same scheduler and sessions under
    virtual time, and `report` makes one page of what both wrote. docs/benchmarks.md says what is
    measured and how.
    """

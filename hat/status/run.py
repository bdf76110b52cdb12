"""Asks both sides, once or again and again, and shows what they said."""

import asyncio
import sys
import time
from collections.abc import Sequence

import aiohttp
import click

from hat.status.asking import Side, SideStatus, ask
from hat.status.report import report

_TO_THE_TOP = "\x1b[H\x1b[2J"
"""Clears a terminal."""


def run_status(sides: Sequence[Side], every_s: float | None) -> bool:
    """Show the sides, once or every so many seconds until Ctrl-C.

    Returns:
        Whether one is there at all, and all that were named or are there are ready.
    """
    return asyncio.run(_watch(sides, every_s))


async def _watch(sides: Sequence[Side], every_s: float | None) -> bool:
    before: Sequence[SideStatus | None] = [None] * len(sides)
    async with aiohttp.ClientSession() as http:
        while True:
            found = await asyncio.gather(*[ask(http, side, time.monotonic()) for side in sides])
            counted = _counted(sides, found)
            parts = [
                report(each, past)
                for each, past in zip(found, before, strict=True)
                if each in counted or not counted
            ]
            if every_s is not None and sys.stdout.isatty():
                click.echo(_TO_THE_TOP, nl=False)
            click.echo("\n\n".join(parts))
            if every_s is None:
                return bool(counted) and all(each.trouble is None for each in counted)
            before = found
            await asyncio.sleep(every_s)


def _counted(sides: Sequence[Side], found: Sequence[SideStatus]) -> list[SideStatus]:
    """Without a side that was not named and is not there: it may be another machine's."""
    pairs = zip(sides, found, strict=True)
    return [each for side, each in pairs if each.is_there or side.is_named]

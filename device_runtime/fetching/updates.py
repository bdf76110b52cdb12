"""When a cloud has another model than the device's bundle, the one it serves now is fetched."""

import asyncio
import logging
from pathlib import Path

from device_runtime.fetching.fetching import Fetcher
from device_runtime.link.link import Link
from process.errors import UserError

_log = logging.getLogger(__name__)

_ASK_AGAIN_S = 60.0
"""A cloud that refuses the device and serves no other bundle may do so later."""

_UNPROVEN_S = 600.0
"""A bundle that was fetched for a refusal and is refused as well: so long none is fetched."""


class Updates:
    """Watches over one device after another, each with the bundle that came of the one before."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._is_unproven = False

    async def newer(self, link: Link, folder: Path) -> Path:
        """Wait until the cloud refuses the bundle in `folder` and another one is here.

        If the link is back by then, as behind a balancer whose clouds are changed one by one, that
        waits until it is refused again: answers go on where they can.
        """
        if self._is_unproven:
            await _up_within(link, _UNPROVEN_S)
            self._is_unproven = False
        told = ""
        while True:
            await link.mismatched.wait()
            if not told:
                _log.warning("%s: asking for the bundle that it serves", link.status.reason)
            try:
                found = await self._fetcher.fetch()
                reason = "it serves the one that it refuses"
            except UserError as error:
                found, reason = folder, str(error)
            if found != folder and link.mismatched.is_set():
                self._is_unproven = True
                return found
            if found != folder:
                reason = "the link is back: the new bundle is for the next time"
            if reason != told:
                _log.warning("%s", reason)
            told = reason
            if await _up_within(link, _ASK_AGAIN_S):
                told = ""


async def _up_within(link: Link, seconds: float) -> bool:
    """Whether the link came up in that time."""
    try:
        async with asyncio.timeout(seconds):
            await link.connected()
    except TimeoutError:
        return False
    return True

"""Fetching the bundle that a cloud serves, from the first question to a folder that is sound."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO

import aiohttp

from device_runtime.fetching.cloud_files import CloudAddress, CloudFiles, StatusError
from device_runtime.fetching.download import (
    REFUSED_SECRET,
    Action,
    Ask,
    Check,
    Done,
    Download,
    Forget,
    LookAgain,
    Pause,
    pause_s,
)
from device_runtime.fetching.listing import (
    FetchError,
    Listing,
    NotLetInError,
    Wanted,
    digest_of,
    listing_of,
)
from device_runtime.fetching.store import BusyError, Store, hash_of
from device_runtime.link.refusals import of_error
from process.errors import UserError, system_reason
from process.world import World
from submodels.bundle.bundle import check_manifest
from submodels.bundle.manifest_file import MANIFEST_FILE
from submodels.errors import BundleError

_log = logging.getLogger(__name__)

Show = Callable[[int, int], None]
"""Told how many bytes of how many are here."""

PATIENCE_S = 180.0
"""Within it 64 KiB have to come; whoever starts the program again goes on where this one was."""

_MANIFEST_S = 180.0
"""For a manifest as a whole."""

_IMPATIENCE_S = 5.0
"""For a cloud that does not answer, where the bundle of last time is at hand."""

_LOOK_S = 0.5

_MOST_LOOKS = 4
"""Manifests that are asked for in one fetching: a cloud may be given another model meanwhile."""


class UnreachableError(FetchError):
    """The cloud does not answer, or has no bundle to give: what is known may lie in that."""


class Fetcher:
    """Fetches the bundle of one cloud. `key` is the public key that is pinned, if one is."""

    def __init__(
        self,
        address: CloudAddress,
        store: Store,
        key: str | None,
        world: World,
        show: Show,
    ) -> None:
        self._address = address
        self._where = address.where
        self._store = store
        self._key = key
        self._world = world
        self._show = show

    async def at_start(self) -> Path:
        """The folder of the bundle that the cloud serves, or of last time's if it gives none now.

        A device that has a bundle starts, whatever its cloud says; the link tries on.

        Raises:
            UserError: there is neither.
        """
        last = self._store.last_of(self._address.url)
        try:
            return await self.fetch(PATIENCE_S if last is None else _IMPATIENCE_S)
        except UserError as error:
            if last is None or not self._store.use(last, self._world.unix_clock()):
                if isinstance(error, BundleError):
                    # Who serves it, or a page that a network puts in its place, may change.
                    raise FetchError(str(error)) from error
                raise
            _log.warning("%s: starting with the bundle that was fetched from it last", error)
            return last

    async def fetch(self, patience_s: float = PATIENCE_S) -> Path:
        """The folder of the bundle that the cloud serves now: a kept one, or fetched now.

        `patience_s` is how long the cloud may take to say which one that is.

        Raises:
            UserError: it cannot be had; what has come of it is kept.
        """
        async with CloudFiles(self._address) as files:
            for _ in range(_MOST_LOOKS):
                listing = await self._ask_listing(files, patience_s)
                async with self._alone():
                    folder = await self._had(files, listing)
                    if folder is not None:
                        self._store.use(folder, self._world.unix_clock())
                        self._store.remember(self._address.url, folder)
                        await asyncio.to_thread(self._store.remove_old)
                        return folder
                _log.info("the cloud at %s has another bundle by now", self._where)
        raise FetchError(f"the cloud at {self._where} has another bundle each time it is asked")

    async def _had(self, files: CloudFiles, listing: Listing) -> Path | None:
        """The folder of this bundle; None if it is not served any more."""
        kept = await asyncio.to_thread(self._store.kept, listing, self._key)
        if kept is not None:
            _log.info("using %s, which the cloud at %s serves", kept, self._where)
            return kept
        begun = await asyncio.to_thread(self._store.begin, listing, self._world.unix_clock())
        download = Download(listing.wanted, begun, self._world.clock(), PATIENCE_S)
        _log.info(
            "fetching the device bundle of %.100r from %s: %.1f MB, of which %.1f are here",
            *(listing.manifest.model_name, self._where),
            *(listing.num_bytes / 1e6, download.num_bytes / 1e6),
        )
        action = download.next()
        while not isinstance(action, Done | LookAgain):
            action = await self._perform(action, files, listing, download)
            self._show(min(download.num_bytes, listing.num_bytes), listing.num_bytes)
        if isinstance(action, LookAgain):
            return None
        folder = await asyncio.to_thread(self._store.install, listing, self._key)
        _log.info("the bundle is whole, and kept in %s", folder)
        return folder

    async def _perform(
        self, action: Action, files: CloudFiles, listing: Listing, download: Download
    ) -> Action:
        """Do what the download asks for; what it asks for next.

        Raises:
            FetchError: it cannot go on.
        """
        match action:
            case Ask(file, start):
                return await self._take(files, listing, download, file, start)
            case Check(file):
                sha256 = await asyncio.to_thread(hash_of, self._store.part(file))
                try:
                    return download.on_checked(sha256)
                except FetchError:
                    self._store.forget(file)
                    raise
            case Forget(file):
                _log.warning("%s was damaged here: fetching it again", file.name)
                self._store.forget(file)
                download.on_forgotten()
            case Pause(seconds, reason):
                _log.info("%s; going on in %.1f s", reason, seconds)
                await asyncio.sleep(seconds)
            case _:
                pass
        return download.next()

    async def _take(
        self, files: CloudFiles, listing: Listing, download: Download, file: Wanted, start: int
    ) -> Action:
        """Ask for a file and write what comes.

        Raises:
            FetchError: what comes is wrong, the disk is full, or the cloud refuses for good.
        """
        clock, reason = self._world.clock, "the answer ended early"
        try:
            async with files.file(listing.digest, file.name, start) as answer:
                download.on_head(answer.start, answer.total)
                with _Part(self._store.part(file), answer.start) as part:
                    async for piece in answer.pieces():
                        download.on_bytes(len(piece), clock())
                        await asyncio.to_thread(part.write, piece)
                        self._show(download.num_bytes, listing.num_bytes)
                        if not isinstance(download.next(), Ask):
                            break
        except StatusError as error:
            draw = self._world.randomness.random()
            return download.on_refused(error.status, error.retry_after_s, clock(), draw)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = self._reason(error)
        return download.on_end(reason, clock(), self._world.randomness.random())

    async def _ask_listing(self, files: CloudFiles, patience_s: float) -> Listing:
        """Which bundle is served now.

        Raises:
            UserError: none, or not to this device; or the cloud does not answer.
        """
        clock, attempt = self._world.clock, 0
        begun_s = clock()
        while True:
            try:
                async with asyncio.timeout(_MANIFEST_S):
                    text = await files.manifest()
                    signatures = await files.signatures(digest_of(text))
                listing = listing_of(text, signatures, self._where, self._key)
                check_manifest(listing.manifest, f"{MANIFEST_FILE} of the cloud at {self._where}")
                return listing
            except StatusError as error:
                reason = self._of_status(error)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                reason = self._reason(error)
            if clock() - begun_s > patience_s:
                raise UnreachableError(reason)
            if attempt == 0:
                _log.info("%s; trying on", reason)
            await asyncio.sleep(pause_s(attempt, self._world.randomness.random()))
            attempt += 1

    def _of_status(self, error: StatusError) -> str:
        """Why there is no manifest now.

        Raises:
            FetchError: there will be none.
        """
        status = error.status
        if status in (401, 403):
            raise NotLetInError(self._of_refusal(error.words))
        if status == 404:
            raise UnreachableError(
                f"the cloud at {self._where} serves no device bundle: its operator adds "
                "--serve-device-bundle, or copies the bundle here, whose folder is then BUNDLE"
            )
        if status not in {410, 429} and status < 500:
            raise FetchError(
                f"{self._where} answers HTTP {status} when asked for the device bundle; is it a "
                "hat cloud?"
            )
        return f"the cloud at {self._where} answers HTTP {status}"

    def _of_refusal(self, words: str) -> str:
        """Why this device is not let in, with the cloud's own words, and what to do."""
        if self._address.secret is None:
            # It may have shown a certificate, of which the cloud's words tell.
            details = f" ({words})" if words else ""
            return (
                f"the cloud at {self._where} asks for a secret or a token, and this device shows "
                f"none{details}: give it --secret-file"
            )
        details = f": {words}" if words else ""
        return (
            f"{REFUSED_SECRET} or token ({self._where}{details}); start both sides with the same "
            "secret, or ask whoever runs the cloud for a token"
        )

    def _reason(self, error: BaseException) -> str:
        """Why the cloud could not be asked.

        Raises:
            UnreachableError: that will not change by itself.
        """
        refusal = of_error(error, self._where)
        if refusal.is_permanent:
            raise UnreachableError(refusal.reason)
        is_cut = isinstance(error, aiohttp.ServerDisconnectedError)
        # So does one that speaks TLS, which no answer says.
        hint = (
            "; is it wss:// instead of ws://?"
            if is_cut and self._address.bundle_url.startswith("http:")
            else ""
        )
        return refusal.reason + hint

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Hold the store, once nobody else does; the event loop goes on meanwhile."""
        is_told = False
        with contextlib.ExitStack() as held:
            while True:
                try:
                    held.enter_context(self._store.alone())
                    break
                except BusyError:
                    if not is_told:
                        _log.info("another process fetches a bundle: waiting for it ...")
                    is_told = True
                await asyncio.sleep(_LOOK_S)
            yield


class _Part:
    """A file that is written from a byte on; what is behind it goes first. A context.

    Raises:
        FetchError: in each of its methods, where the disk does not let it.
    """

    def __init__(self, path: Path, start: int) -> None:
        self._path = path
        self._start = start
        self._file: BinaryIO | None = None

    def __enter__(self) -> "_Part":
        try:
            # Windows would else take some bytes for ends of lines, and knows of no links here.
            flags = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | flags, 0o600)
            self._file = os.fdopen(descriptor, "r+b", buffering=0)
            self._file.truncate(self._start)
            self._file.seek(self._start)
        except OSError as error:
            raise self._told(error) from error
        return self

    def __exit__(self, *raised: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError), self._file as file:
                os.fsync(file.fileno())

    def write(self, piece: bytes) -> None:
        """Append this; blocks for the disk."""
        assert self._file is not None
        try:
            left = memoryview(piece)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._told(error) from error

    def _told(self, error: OSError) -> FetchError:
        return FetchError(f"cannot write {self._path}: {system_reason(error)}")

"""Where devices fetch their bundle from, if this cloud serves it: part of its HTTP face.

`GET /v1/bundle` is the manifest, `GET /v1/bundle/DIGEST/NAME` a file of it, whole or from a byte on
(`Range`). Whoever asks shows what a Hello shows. Verifications come first: all answers together
keep to a rate, few are under way at once, and the disk is read beside the event loop.
"""

import asyncio
import contextlib
import logging
import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from aiohttp import hdrs, web

from cloud_server.core.actions import Identity
from cloud_server.core.names.certificate import name_of_certificate
from cloud_server.core.names.people import People, Person
from cloud_server.daemon.reception import Reception
from cloud_server.daemon.rhythm import NamesNow
from cloud_server.daemon.served_bundle import ChangedFileError, ServedBundle
from process.listening.runner import handler_of
from process.sockets.tcp import keep_unsent_short
from process.world import Clock
from submodels.bundle.manifest_file import MANIFEST_FILE
from wire.handshake import BUNDLE_PATH

_MOST_ANSWERS = 8
_MOST_OF_IDENTITY = 4
_RETRY_S = 1
"""Who finds no place is told so after this time, and to come again after as long."""

_STALLED_S = 5.0
"""An answer that took nothing for so long, as after a cut, makes room for another one."""

_PIECE_BYTES = 1 << 16
"""What one write costs the event loop, with TLS: less than a tenth of a millisecond."""

_LEAST_BYTES = _PIECE_BYTES
"""What any question counts, also one for a byte, or for what is not there: it costs the event loop
more than a piece does."""

_WHILE_COMPUTING = 1 / 8
"""Of the rate: what a download takes of the processor then comes off somebody's verification."""

_READ_BYTES = 1 << 19
"""What is read at once: each reading wakes a thread, and so interrupts the engine's."""

_UNSENT_BYTES = 1 << 18

_TURN_S = 60.0
"""So long an answer may last; then the device asks for the rest, if need be behind others."""

_LOOK_S = 1.0
"""How often is looked whether somebody may still have what he gets."""

_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{0,15})")
_BEARER = re.compile(r"bearer +([!-~]+)", re.IGNORECASE)

_ASKS_AGAIN_S = 10.0


class Rate:
    """What may be sent when, all answers together: `bytes_per_s`, first come, first served.

    While the engine computes it is an eighth of that.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_s = 0.0

    def pause_s(self, num_bytes: int, now: float, is_computing: bool = False) -> float:
        """How long whoever wants to send so many bytes has to wait; they count as sent."""
        begin_s = max(now, self._free_s)
        bytes_per_s = self._bytes_per_s * (_WHILE_COMPUTING if is_computing else 1)
        self._free_s = begin_s + num_bytes / bytes_per_s
        return begin_s - now


class Callers:
    """Who may fetch: whoever may connect, also while the core that decides that is not there yet.

    `names` says who there is, as it does for the daemon; None: there are no names.
    """

    def __init__(
        self,
        secret: bytes,
        names: Callable[[], NamesNow] | None,
        clock: Clock,
        takes_certificates: bool = False,
    ) -> None:
        self._people = People(secret, takes_certificates)
        self._names = names
        self._clock = clock

    def who(self, credential: bytes, certificate: str | None = None) -> Person | None:
        """Who shows this, and a certificate of this name; None: nobody who may come."""
        self._admit()
        return self._people.who(credential, certificate, self._clock())

    def why_not(self, credential: bytes, certificate: str | None = None) -> str:
        """What to tell somebody who may not."""
        return self._people.why_not(credential, certificate, self._clock())

    def may_stay(self, person: Person) -> bool:
        """Whether somebody may still come."""
        self._admit()
        return self._people.why_no_more(person, self._clock()) is None

    def _admit(self) -> None:
        if self._names is not None:
            tokens, unix_s = self._names()
            self._people.admit(tokens, unix_s, self._clock())


class BundleDesk:
    """Answers devices that fetch the bundle. Belongs to one event loop.

    `count` is told of bytes that went to them; while `is_computing` fewer do.
    """

    def __init__(
        self,
        bundle: ServedBundle,
        reception: Reception,
        callers: Callers,
        bytes_per_s: float,
        count: Callable[[float], None],
        is_computing: Callable[[], bool],
    ) -> None:
        self._bundle = bundle
        self._reception = reception
        self._callers = callers
        self._rate = Rate(bytes_per_s)
        self._readers = ThreadPoolExecutor(1, "bundle")
        self._answers: list[_Answer] = []
        self._count = count
        self._is_computing = is_computing

    def routes(self) -> list[web.RouteDef]:
        """Where it is asked."""
        return [
            web.get(BUNDLE_PATH, self.manifest, allow_head=False),
            web.get(f"{BUNDLE_PATH}/{{digest}}/{{name}}", self.file, allow_head=False),
        ]

    def close(self) -> None:
        """Answer no more."""
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._bundle.close()

    async def manifest(self, request: web.Request) -> web.StreamResponse:
        """What the bundle consists of."""
        person = await self._let_in(request)
        if isinstance(person, web.Response):
            return person
        whose = f"{person.name} at " if person.is_named else ""
        where = f"{whose}{_address(request)}"
        self._reception.visits.say(logging.INFO, "%s asks for the device bundle", where)
        return await self._answer(request, person, MANIFEST_FILE)

    async def file(self, request: web.Request) -> web.StreamResponse:
        """A file, or the rest of it."""
        person = await self._let_in(request)
        if isinstance(person, web.Response):
            return person
        return await self._answer(request, person, request.match_info["name"])

    async def _answer(self, request: web.Request, person: Person, name: str) -> web.StreamResponse:
        answer = self._take_place(request, person, name)
        if answer is None:
            # Told later, since who is told at once may ask again at once.
            await self._hold(request, _RETRY_S)
            headers = {hdrs.RETRY_AFTER: str(_RETRY_S)}
            return web.Response(status=503, text="others fetch it now", headers=headers)
        try:
            response = await self._answered(answer)
            if not answer.is_counted:
                # Of a file without bytes nothing was written.
                await self._wait_turn(answer, 0)
            return response
        finally:
            if answer in self._answers:
                self._answers.remove(answer)

    async def _answered(self, answer: "_Answer") -> web.StreamResponse:
        """What is asked for, or why there is none of it."""
        request, size = answer.request, self._bundle.size(answer.name)
        wanted = _wanted(request.headers.get(hdrs.RANGE, ""), size or 0)
        if request.match_info.get("digest", self._bundle.digest) != self._bundle.digest:
            refusal = web.Response(status=410, text="this cloud serves another bundle by now")
        elif size is None:
            refusal = web.Response(status=404, text="the bundle has no file of this name")
        elif wanted is None:
            headers = {hdrs.CONTENT_RANGE: f"bytes */{size}"}
            refusal = web.Response(status=416, text=f"the file has {size} bytes", headers=headers)
        else:
            return await self._send(answer, wanted, size)
        # Told when its turn has come.
        await self._wait_turn(answer, 0)
        return refusal

    async def _hold(self, request: web.Request, seconds: float) -> None:
        """Wait; meanwhile the connection makes room for others, as one that has said nothing."""
        handler_of(request).doubt(asyncio.get_running_loop().time() + seconds + _ASKS_AGAIN_S)
        await asyncio.sleep(seconds)

    async def _send(self, answer: "_Answer", wanted: range, size: int) -> web.StreamResponse:
        request = answer.request
        is_part = hdrs.RANGE in request.headers and wanted != range(size)
        response = web.StreamResponse(status=206 if is_part else 200)
        response.content_type = "application/octet-stream"
        response.content_length = len(wanted)
        response.headers[hdrs.ACCEPT_RANGES] = "bytes"
        response.headers[hdrs.CACHE_CONTROL] = "no-store"
        if is_part:
            last = wanted.stop - 1
            response.headers[hdrs.CONTENT_RANGE] = f"bytes {wanted.start}-{last}/{size}"
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            if not await self._write(answer, response, wanted):
                # It has fewer bytes than were promised: the device asks for the rest.
                response.force_close()
                if request.transport is not None:
                    request.transport.close()
        return response

    async def _write(self, answer: "_Answer", response: web.StreamResponse, wanted: range) -> bool:
        """Send the bytes piece by piece; whether all of them have gone.

        Raises:
            ConnectionError: the device is gone.
        """
        loop, clock = asyncio.get_running_loop(), self._reception.clock
        if (sock := answer.request.get_extra_info("socket")) is not None:
            with contextlib.suppress(OSError):
                keep_unsent_short(sock, _UNSENT_BYTES)
        begun_s = looked_s = clock()
        for start in range(wanted.start, wanted.stop, _READ_BYTES):
            num_bytes = min(_READ_BYTES, wanted.stop - start)
            try:
                content = await loop.run_in_executor(
                    self._readers, self._bundle.read, answer.name, start, num_bytes
                )
            except ChangedFileError as error:
                self._reception.visits.say(
                    logging.ERROR,
                    "the device bundle was changed: %s; start this cloud again",
                    error,
                )
                return False
            for place in range(0, num_bytes, _PIECE_BYTES):
                now = clock()
                if now - looked_s > _LOOK_S:
                    looked_s = now
                    if now - begun_s > _TURN_S or not self._callers.may_stay(answer.person):
                        return False
                await self._write_piece(answer, response, content[place : place + _PIECE_BYTES])
        return True

    async def _write_piece(
        self, answer: "_Answer", response: web.StreamResponse, piece: bytes
    ) -> None:
        """Send this when its turn has come, and wait while the device takes nothing.

        Raises:
            ConnectionError: the device is gone.
        """
        await self._wait_turn(answer, len(piece))
        answer.blocked_s = self._reception.clock()
        await response.write(piece)
        answer.blocked_s = None
        self._count(len(piece))

    async def _wait_turn(self, answer: "_Answer", num_bytes: int) -> None:
        """Wait until so many more bytes may go; the first of an answer count as some at least."""
        counted = num_bytes if answer.is_counted else max(num_bytes, _LEAST_BYTES)
        answer.is_counted = True
        now = self._reception.clock()
        await asyncio.sleep(self._rate.pause_s(counted, now, self._is_computing()))

    async def _let_in(self, request: web.Request) -> Person | web.Response:
        """Who asks, or why he gets nothing; the next wrong secret of an address waits longer."""
        found = _BEARER.fullmatch(request.headers.get(hdrs.AUTHORIZATION, ""))
        credential = b"" if found is None else found[1].encode()
        certificate = name_of_certificate(request.get_extra_info("peercert"))
        person = self._callers.who(credential, certificate)
        if person is not None:
            return person
        handler, address = handler_of(request), _address(request)
        wrong, clock = self._reception.wrong_secrets, self._reception.clock
        await self._hold(request, wrong.delay_s(address, clock()))
        wrong.note(address, clock())
        if handler.visit is not None:
            self._reception.guard.say(handler.visit, "401, it asked for the device bundle")
        headers = {hdrs.WWW_AUTHENTICATE: "Bearer"}
        why_not = self._callers.why_not(credential, certificate)
        return web.Response(status=401, text=why_not, headers=headers)

    def _take_place(self, request: web.Request, person: Person, name: str) -> "_Answer | None":
        """Begin one more answer, if there is room; what takes nothing makes room for it."""
        identity = person.identity_at(_address(request))
        own = [answer for answer in self._answers if answer.identity == identity]
        if len(own) >= _MOST_OF_IDENTITY or len(self._answers) >= _MOST_ANSWERS:
            crowd = own if len(own) >= _MOST_OF_IDENTITY else self._answers
            since_s = self._reception.clock() - _STALLED_S
            stalled = [each for each in crowd if (each.blocked_s or math.inf) < since_s]
            if not stalled:
                return None
            self._answers.remove(stalled[0])
            if (transport := stalled[0].request.transport) is not None:
                transport.abort()
        self._answers.append(answer := _Answer(request, person, identity, name))
        return answer


@dataclass(eq=False, slots=True)
class _Answer:
    """One that is under way."""

    request: web.Request
    person: Person
    identity: Identity
    name: str
    """Of the file."""
    is_counted: bool = False
    """Whether the question itself has been counted."""
    blocked_s: float | None = None
    """Since when the device takes nothing of what is written; None: it does."""


def _wanted(field: str, size: int) -> range | None:
    """Which bytes of a file are asked for; None: it has none of them.

    Forms of a range that no device sends ask for the whole file.
    """
    found = _RANGE.fullmatch(field.strip())
    if found is None:
        return range(size)
    start = int(found[1])
    stop = min(size, int(found[2]) + 1) if found[2] else size
    return range(start, stop) if start < stop else None


def _address(request: web.Request) -> Identity:
    visit = handler_of(request).visit
    assert visit is not None
    return Identity(visit.address or visit.host)

"""`python -m bench.hostile.attacks NAME ...`: one attack from one address, until it is ended."""

import argparse
import asyncio
import contextlib
import gzip
import hashlib
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import aiohttp

from bench.hostile.peer import PeerError, Target, linked
from submodels.bundle.bundle import load_bundle
from wire.handshake import BUNDLE_PATH
from wire.messages import Close, Want

_HALF_HEAD = b"GET /v1/link HTTP/1.1\r\nHost: cloud\r\nX-Rest: "
_UPGRADE = (
    b"GET /v1/link HTTP/1.1\r\nHost: cloud\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_WHOLE_CONTEXT = 512
_SESSION, _PROMPT = 64, 32
BEYOND_QUOTAS = "beyond its quotas"
NUM_CONNECTIONS = 50
"""That the name in that attack may have."""
_FAILURES = (aiohttp.ClientError, OSError, PeerError, TimeoutError)


async def _hold(target: Target, num_sockets: int, firsts: tuple[bytes, ...]) -> None:
    """Keep so many sockets open that have said this and no more."""
    held: list[socket.socket] = []
    while True:
        held = [each for each in held if _is_open(each)]
        for number in range(min(50, num_sockets - len(held))):
            made = socket.socket()
            made.settimeout(1.0)
            try:
                made.bind((target.source, 0))
                made.connect(("127.0.0.1", target.port))
                made.send(firsts[number % len(firsts)])
                made.setblocking(False)
                held.append(made)
            except OSError:
                made.close()
        await asyncio.sleep(0.05)


def _is_open(made: socket.socket) -> bool:
    try:
        while made.recv(1 << 16):
            pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    made.close()
    return False


async def _silent(target: Target) -> None:
    await _hold(target, 1000, (b"", _HALF_HEAD))


async def _no_hello(target: Target) -> None:
    await _hold(target, 300, (_UPGRADE,))


async def _wrong_secrets(target: Target) -> None:
    guessing = replace(target, secret="a-guess-that-is-wrong")

    async def guess(client: aiohttp.ClientSession) -> None:
        while True:
            with contextlib.suppress(*_FAILURES):
                async with linked(guessing, client):
                    pass

    async with target.client() as client:
        await asyncio.gather(*(guess(client) for _ in range(16)))


async def _gzip(target: Target) -> None:
    packed = gzip.compress(bytes(1 << 30), 9)
    while True:
        with contextlib.suppress(*_FAILURES):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", target.port, local_addr=(target.source, 0)
            )
            head = f"Content-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
            writer.write(b"POST /health HTTP/1.1\r\nHost: cloud\r\n" + head.encode() + packed)
            await reader.read(100)
            writer.transport.abort()
        await asyncio.sleep(0.2)


async def _one_row(target: Target) -> None:
    async with target.client() as client, linked(target, client) as peer:
        reading = asyncio.create_task(peer.read_on())
        sessions = [await peer.open(_WHOLE_CONTEXT) for _ in range(64)]
        turn = 0
        while not reading.done():
            if peer.credit > 0:
                turn += 1
                await peer.rows(sessions[turn % len(sessions)], 0, 1, Want.ALL)
            if turn % 64 == 0 or peer.credit <= 0:
                await asyncio.sleep(0.001)


async def _refused_opens(target: Target) -> None:
    """One-row frames wait on eight links, and sessions are asked for that cannot be had."""
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(target.client())
        peers = [await stack.enter_async_context(linked(target, client)) for _ in range(9)]
        reading = [asyncio.create_task(peer.read_on()) for peer in peers]
        asking, *waiting = peers
        sessions = [await peer.open(_WHOLE_CONTEXT) for peer in waiting]
        while not all(each.done() for each in reading):
            for peer, session in zip(waiting, sessions, strict=True):
                while peer.credit > 0:
                    await peer.rows(session, 0, 1, Want.NONE)
            for _ in range(20):
                await asking.open(_WHOLE_CONTEXT)
            await asyncio.sleep(0)


async def _churn(target: Target) -> None:
    async with target.client() as client, linked(target, client) as peer:
        reading = asyncio.create_task(peer.read_on())
        while not reading.done():
            for _ in range(20):
                await peer.send(Close(await peer.open(_WHOLE_CONTEXT)))
            await asyncio.sleep(0)


async def _flood(target: Target, number: int) -> None:
    """One of many connections: verifications or prompts as fast as credit allows, and now and then
    a session more than there may be."""
    async with target.client() as client, linked(target, client) as peer:
        reading = asyncio.create_task(peer.read_on())
        session = await peer.open(_SESSION)
        while not reading.done():
            while peer.credit >= _PROMPT:
                if number % 2:
                    await peer.rows(session, 0, 4, Want.ALL)
                else:
                    await peer.rows(session, 0, _PROMPT, Want.NONE)
            session = await peer.open(_SESSION)
            await asyncio.sleep(0.05)


async def _beyond_quotas(target: Target) -> None:
    """All connections that a name may have, at its rate, and as many again that it may not."""

    async def again(number: int) -> None:
        while True:
            with contextlib.suppress(*_FAILURES):
                await _flood(target, number)
            await asyncio.sleep(0.05)

    await asyncio.gather(*(again(number) for number in range(2 * NUM_CONNECTIONS)))


async def _downloads(target: Target) -> None:
    """The device bundle, by sixteen at a time, over and over."""

    async def fetch(client: aiohttp.ClientSession, url: str) -> None:
        while True:
            with contextlib.suppress(*_FAILURES):
                async with client.get(url) as answer:
                    async for _ in answer.content.iter_any():
                        pass
            await asyncio.sleep(0.01)

    url = f"http://127.0.0.1:{target.port}{BUNDLE_PATH}"
    async with target.client() as client:
        client.headers["Authorization"] = f"Bearer {target.secret}"
        async with client.get(url) as answer:
            manifest = await answer.read()
        files = json.loads(manifest)["files"]
        largest = max(files, key=lambda name: int(files[name]["num_bytes"]))
        url = f"{url}/{hashlib.sha256(manifest).hexdigest()}/{largest}"
        await asyncio.gather(*(fetch(client, url) for _ in range(16)))


ATTACKS: Mapping[str, Callable[[Target], Awaitable[None]]] = MappingProxyType(
    {
        "silent sockets": _silent,
        "no Hello": _no_hello,
        "wrong secrets": _wrong_secrets,
        "gzip bodies": _gzip,
        "one-row frames": _one_row,
        "refused Opens": _refused_opens,
        "open and close": _churn,
        "downloads": _downloads,
        BEYOND_QUOTAS: _beyond_quotas,
    }
)


async def _attack(name: str, target: Target) -> None:
    """Once it is cut off, again."""
    while True:
        with contextlib.suppress(*_FAILURES):
            await ATTACKS[name](target)
        await asyncio.sleep(0.1)


def _let_others_first() -> None:
    """Compute only when a core has nothing else to do, where the system knows of such processes.

    At nice 19 alone the attacker, who would be elsewhere, still takes whole slices of a core that
    the engine's second thread waits for.
    """
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main() -> None:
    """Attack until this process is ended."""
    _let_others_first()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=ATTACKS)
    parser.add_argument("port", type=int)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("secret_file", type=Path)
    parser.add_argument("source")
    given = parser.parse_args()
    manifest = load_bundle(given.bundle, "cloud").manifest
    secret = given.secret_file.read_text().strip()
    asyncio.run(_attack(given.name, Target(given.port, manifest, secret, given.source)))


if __name__ == "__main__":
    main()

"""The guarded listener over real sockets, on both event loops that the programs may use."""

import asyncio
import gzip
import logging
import shutil
import socket
import ssl
import struct
import time
from dataclasses import replace

import pytest

from process.listening.refusals import plain
from tests.support.event_loop import on_both_loops, until
from tests.support.guarded import LIMITS, guarded, make_certificate, read_all

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST_GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

pytestmark = on_both_loops


def _post(headers: str, body: bytes = b"", path: str = "/") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n".encode() + body


def _status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def _cut_off(writer: asyncio.StreamWriter, data: bytes) -> bool:
    """Whether the server ends the connection while this is sent again and again."""
    try:
        async with asyncio.timeout(20):
            while True:
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(0)
    except ConnectionError:
        return True
    except TimeoutError:
        return False


async def test_a_compressed_body_is_refused_and_never_unpacked():
    packed = gzip.compress(b" " * (64 << 20))
    async with guarded() as served:
        for encoding in ("gzip", "deflate", "br", "zstd", "identity, GZIP", "none-such"):
            headers = f"Content-Encoding: {encoding}\r\nContent-Length: {len(packed)}\r\n"
            answer = await served.ask(_post(headers, packed))
            assert _status(answer) == 415
            assert b"Accept-Encoding: identity" in answer
        for encoding in ("gzip, chunked", "x-gzip, identity, chunked"):
            headers = f"Transfer-Encoding: {encoding}\r\n"
            chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(packed), packed)
            assert _status(await served.ask(_post(headers, chunks))) == 415
        assert served.calls == []
        headers = "Content-Encoding: identity\r\nContent-Length: 2\r\nConnection: close\r\n"
        assert _status(await served.ask(_post(headers, b"{}"))) == 200


async def test_a_connection_without_a_whole_request_is_closed_in_time():
    heads = (b"", b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
    async with guarded() as served:
        assert await asyncio.gather(*map(served.ask, heads)) == [b""] * 2
        await until(lambda: len(served.guard.door) == 0)


async def test_bytes_sent_one_by_one_do_not_renew_the_deadline():
    async def drip(served, before):
        reader, writer = await served.connect(before)
        if before:
            assert await reader.readuntil(b"served")
        begun_s = asyncio.get_running_loop().time()
        dripping = asyncio.ensure_future(read_all(reader))
        for byte in b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000:
            writer.write(bytes([byte]))
            done, _ = await asyncio.wait([dripping], timeout=0.01)
            if done:
                break
        assert await dripping == b""
        assert asyncio.get_running_loop().time() - begun_s < 10 * LIMITS.head_timeout_s
        writer.close()

    async with guarded(replace(LIMITS, idle_timeout_s=30.0)) as served:
        await asyncio.gather(drip(served, b""), drip(served, GET))


@pytest.mark.parametrize("before", [b"", GET[:9]])
async def test_a_request_that_came_while_this_process_stood_still_is_answered(before):
    async with guarded() as served:
        loop = asyncio.get_running_loop()
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.sendall(before)
            await until(lambda: len(served.guard.door) == 1)
            await asyncio.sleep(0.05)
            client.sendall(LAST_GET[len(before) :])
            # As a stopped or swapped-out process: its clock goes on, its loop does not.
            time.sleep(LIMITS.head_timeout_s + 0.5)  # noqa: ASYNC251
            answer = await loop.run_in_executor(None, client.recv, 1 << 16)
        assert _status(answer) == 200


async def test_a_request_that_takes_long_and_a_body_that_comes_slowly_outlive_the_deadline():
    async with guarded() as served:
        slow = asyncio.ensure_future(served.ask(LAST_GET.replace(b"/ ", b"/slow ", 1)))
        reader, writer = await served.connect(
            _post("Content-Length: 4\r\nConnection: close\r\n", path="/echo")
        )
        for _ in range(4):
            await asyncio.sleep(LIMITS.head_timeout_s / 2)
            writer.write(b"x")
        assert (await read_all(reader)).endswith(b"4")
        writer.close()
        assert (await slow).endswith(b"slow")


async def test_an_idle_connection_is_closed_after_the_idle_timeout():
    async with guarded() as served:
        answer = await served.ask(GET)
        assert answer.endswith(b"served")


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (LAST_GET.replace(b"\r\n\r\n", b"\r\nCookie: " + b"a" * 31_000 + b"\r\n\r\n"), 200),
        (GET.replace(b"\r\n\r\n", b"\r\nCookie: " + b"a" * 40_000 + b"\r\n\r\n"), 431),
        (GET.replace(b"\r\n\r\n", (b"\r\nCookie: " + b"a" * 9_000) * 4 + b"\r\n\r\n"), 431),
        (GET.replace(b"\r\n\r\n", b"\r\nX: y" * 200 + b"\r\n\r\n"), 431),
        (LAST_GET.replace(b"/ ", b"/?" + b"a" * 31_000 + b" ", 1), 200),
        (GET.replace(b"/ ", b"/?" + b"a" * 40_000 + b" ", 1), 414),
        (GET.replace(b"\r\n\r\n", (b"\r\nX: " + b"a" * 8000) * 100), 431),
        (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500, 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
    ],
)
async def test_heads_are_served_up_to_their_bound_and_refused_beyond(request_head, status):
    refusals = []

    def refuse(refusal):
        refusals.append(refusal)
        return plain(refusal)

    async with guarded(refuse=refuse) as served:
        head = request_head.replace(b"Host: a", b"Host: a\r\nOrigin: http://page", 1)
        assert _status(await served.ask(head)) == status
        if status in (414, 431):
            assert refusals[0].origin == "http://page"
        assert bool(refusals) == (status != 200)


async def test_a_parser_refusal_leaves_no_traceback_and_nothing_of_the_request_in_the_log(caplog):
    with caplog.at_level(logging.DEBUG):
        async with guarded() as served:
            await served.ask(b"GET /secret-word HTTP/1.1\r\nHost : secret-word\r\n\r\n")
    assert "refused 127.0.0.1: 400 bad_request" in caplog.text
    assert "Traceback" not in caplog.text
    assert "secret-word" not in caplog.text


async def test_a_small_unread_body_keeps_the_connection_and_a_large_one_ends_it():
    async with guarded() as served:
        reader, writer = await served.connect(_post("Content-Length: 999\r\n", b"x" * 999))
        await reader.readuntil(b"served")
        writer.write(GET)
        await reader.readuntil(b"served")
        writer.close()
        endless = 1 << 40
        reader, writer = await served.connect(_post(f"Content-Length: {endless}\r\n"))
        assert await _cut_off(writer, b"x" * (1 << 16))
        writer.close()
        # A body that was announced and does not come is not waited for either.
        answer = await served.ask(_post(f"Content-Length: {endless}\r\n"))
        assert _status(answer) == 200


async def test_silent_connections_make_room_for_whoever_speaks():
    limits = replace(LIMITS, max_connections=16, max_per_address=8, head_timeout_s=30.0)
    async with guarded(limits) as served:
        silent = [await served.connect() for _ in range(40)]
        await until(lambda: len(served.guard.door) == 8)
        for _ in range(20):
            assert (await served.ask(LAST_GET)).endswith(b"served")
        gone = [read_all(reader) for reader, _ in silent[:20]]
        async with asyncio.timeout(10):
            assert await asyncio.gather(*gone) == [b""] * 20
        for _, writer in silent:
            writer.close()


async def test_where_all_are_at_work_a_newcomer_gets_a_503():
    limits = replace(LIMITS, max_connections=16, max_per_address=2)
    async with guarded(limits) as served:
        held = [
            asyncio.create_task(served.ask(LAST_GET.replace(b"/ ", b"/held ", 1))) for _ in range(2)
        ]
        await until(lambda: served.calls == ["/held"] * 2)
        answer = await served.ask(b"")
        assert _status(answer) == 503
        assert b"Retry-After" in answer
        served.may_answer.set()
        assert all(each.endswith(b"held") for each in await asyncio.gather(*held))
        assert (await served.ask(LAST_GET)).endswith(b"served")


async def test_a_peer_that_never_reads_is_cut_off():
    limits = replace(LIMITS, stall_timeout_s=0.3)
    async with guarded(limits) as served:
        _, writer = await served.connect(limit=1)
        writer.transport.pause_reading()
        assert await _cut_off(writer, GET * 1000)
        writer.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
async def test_a_tls_handshake_is_counted_and_timed_and_then_served(tmp_path):
    certificate, key = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    trust = ssl.create_default_context(cafile=certificate)

    limits = replace(LIMITS, max_connections=8, max_per_address=4)
    async with guarded(limits, context) as served:
        for _ in range(3):
            answer = await served.ask(LAST_GET, ssl=trust, server_hostname="localhost")
            assert answer.endswith(b"served")
        assert await served.ask(b"") == b""
        silent = [await served.connect() for _ in range(20)]
        await until(lambda: len(served.guard.door) == 4)
        answer = await served.ask(LAST_GET, ssl=trust, server_hostname="localhost")
        assert answer.endswith(b"served")
        # Handshakes that end in the middle, and bytes that are none.
        for data in (b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 300):
            await served.ask(data)
        for _, writer in silent:
            writer.close()
        await until(lambda: len(served.guard.door) == 0)


async def test_connections_that_are_reset_leave_nothing_behind(caplog):
    with caplog.at_level(logging.DEBUG):
        async with guarded() as served:
            for data in (b"", GET[:9], GET, GET * 50, _post("Content-Length: 9\r\n", b"x")) * 8:
                _, writer = await served.connect(data)
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            await until(lambda: len(served.guard.door) == 0)
    assert "Traceback" not in caplog.text


async def test_many_connections_at_once_leave_the_loop_to_others_between_each_two():
    num_connections = 60

    loop = asyncio.get_running_loop()
    async with guarded() as served:
        num_turns, longest = 0, 0
        num_inside = len(served.guard.door)
        made = [socket.socket() for _ in range(num_connections)]
        for each in made:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", served.port))
        end_s = loop.time() + 10
        while num_inside < LIMITS.max_per_address and loop.time() < end_s:
            await asyncio.sleep(0)
            longest = max(longest, len(served.guard.door) - num_inside)
            num_inside = len(served.guard.door)
            num_turns += 1
        assert num_inside == LIMITS.max_per_address
        assert longest == 1
        assert num_turns > LIMITS.max_per_address
        for each in made:
            each.close()

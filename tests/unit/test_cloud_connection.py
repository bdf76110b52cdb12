"""Frames to one socket: in order, bounded, and given up when nothing moves."""

import asyncio

from cloud_server.daemon.connection import Connection, SendLimits
from wire.messages import Fault

LIMITS = SendLimits(max_backlog_bytes=100, stall_timeout_s=5.0)


class FakeTransport:
    """Counts what is held back; the test decides when it drains."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self.is_aborted = False

    def get_write_buffer_size(self) -> int:
        return self.held_bytes

    def abort(self) -> None:
        self.is_aborted = True


class FakeSocket:
    """Writes into the transport, and blocks while `may_write` is not set."""

    def __init__(self, transport: FakeTransport) -> None:
        self._transport = transport
        self.written: list[bytes] = []
        self.is_closed = False
        self.may_write = asyncio.Event()
        self.may_write.set()

    async def send_bytes(self, frame: bytes) -> None:
        self._transport.held_bytes += len(frame)
        await self.may_write.wait()
        self.written.append(frame)

    async def close(self) -> None:
        self.is_closed = True


class FakeHost:
    """Hears of no decision: the core is not there."""

    def greeted(self) -> None: ...

    def refused(self, fault: Fault) -> None: ...


def _make() -> tuple[Connection, FakeSocket, FakeTransport]:
    transport = FakeTransport()
    socket = FakeSocket(transport)
    return Connection(socket, transport, LIMITS, FakeHost()), socket, transport


def test_frames_are_written_in_order_and_then_the_socket_is_closed():
    async def main() -> None:
        connection, socket, _ = _make()
        for number in range(5):
            assert connection.send(bytes([number]))
        connection.finish()
        await connection.end(timeout_s=5.0)
        assert socket.written == [bytes([number]) for number in range(5)]
        assert socket.is_closed

    asyncio.run(main())


def test_a_connection_that_is_not_finished_ends_without_waiting():
    async def main() -> None:
        connection, socket, _ = _make()
        socket.may_write.clear()
        connection.send(b"never")
        await connection.end(timeout_s=1000.0)
        assert not socket.is_closed

    asyncio.run(main())


def test_too_long_a_backlog_cuts_the_connection():
    async def main() -> None:
        connection, socket, transport = _make()
        socket.may_write.clear()
        assert connection.send(bytes(60))
        assert connection.send(bytes(40))
        assert not transport.is_aborted
        assert not connection.send(b"!")
        assert transport.is_aborted
        await connection.end(timeout_s=1.0)

    asyncio.run(main())


def test_a_connection_is_stalled_when_nothing_goes_out_for_too_long():
    async def main() -> None:
        connection, socket, transport = _make()
        assert not connection.is_stalled(10.0)
        socket.may_write.clear()
        connection.send(bytes(50))
        await asyncio.sleep(0)
        assert not connection.is_stalled(10.0)
        assert not connection.is_stalled(15.0)
        assert connection.is_stalled(15.1)
        transport.held_bytes -= 1
        assert not connection.is_stalled(15.2)
        assert not connection.is_stalled(20.2)
        assert connection.is_stalled(20.3)
        transport.held_bytes = 0
        assert not connection.is_stalled(21.0)
        assert not connection.is_stalled(1000.0)
        await connection.end(timeout_s=1.0)

    asyncio.run(main())

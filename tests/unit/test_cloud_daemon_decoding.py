"""Rows that are decoded beside the event loop, where that fails for want of memory or a thread."""

from typing import cast

from cloud_server.core.actions import Identity, Unpack
from cloud_server.daemon.connection import Connection
from tests.support.memory_cloud import MemoryCloud


class Stub:
    """A connection of which only its end is looked at."""

    is_cut = False

    def abort(self) -> None:
        self.is_cut = True


async def test_a_connection_whose_rows_cannot_be_decoded_for_want_of_memory_is_cut(caplog):
    def no_memory() -> bytes:
        raise MemoryError

    cloud, stub = MemoryCloud(), Stub()
    number = cloud.daemon.connect(cast(Connection, stub), Identity("a device"))
    await cloud.daemon._unpack(Unpack(number, no_memory))
    assert stub.is_cut
    assert "its rows cannot be decoded" in caplog.text
    cloud.daemon.disconnect(number)
    await cloud.stop()

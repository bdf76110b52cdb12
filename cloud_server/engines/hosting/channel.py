"""Objects between two processes, one at a time; their arrays go through shared memory that fits.

Both are one program, and nobody else holds an end: what comes is unpickled as it is.
"""

import io
import mmap
import os
import pickle
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 16 << 20
"""Shared, in each direction: 1,024 rows of 8,192 numbers of two bytes. A page takes memory once it
is written to."""

_ALIGN_BYTES = 64
_PROTOCOL = 5


@dataclass(frozen=True, slots=True)
class End:
    """Descriptors of one end of a channel: a socket, and the shared memory of either direction."""

    socket: int
    outgoing: int
    incoming: int

    @property
    def descriptors(self) -> tuple[int, int, int]:
        """All three."""
        return self.socket, self.outgoing, self.incoming

    def close(self) -> None:
        """Close them here, when another process has them."""
        for descriptor in self.descriptors:
            os.close(descriptor)


def make_ends() -> tuple[End, End]:
    """Both ends of a new channel."""
    first, second = socket.socketpair()
    there, back = _shared_memory(), _shared_memory()
    return (
        End(first.detach(), there, back),
        End(second.detach(), os.dup(back), os.dup(there)),
    )


class Channel:
    """One end, whose descriptors are its own. An object is read before the next one is sent the
    same way."""

    def __init__(self, end: End) -> None:
        self._connection = Connection(end.socket)
        self._outgoing = _mapped(end.outgoing)
        self._incoming = _mapped(end.incoming)

    def send(self, message: object) -> None:
        """Send one object.

        Raises:
            OSError: the other end is gone.
        """
        buffers: list[pickle.PickleBuffer] = []
        pickled = io.BytesIO()
        _Pickler(pickled, _PROTOCOL, buffer_callback=buffers.append).dump(message)
        arrays = [buffer.raw() for buffer in buffers]
        sizes = [array.nbytes for array in arrays]
        places = _places(sizes)
        if places is not None:
            for place, array in zip(places, arrays, strict=True):
                self._outgoing[place : place + array.nbytes] = array
        self._connection.send((pickled.getvalue(), sizes))
        if places is None:
            for array in arrays:
                self._connection.send_bytes(array)

    def receive(self) -> Any:
        """The next object, in memory of its own.

        Raises:
            EOFError: the other end is gone.
            OSError: likewise.
        """
        pickled, sizes = self._connection.recv()
        places = _places(sizes)
        if places is None:
            arrays = [bytearray(self._connection.recv_bytes()) for _ in sizes]
        else:
            with memoryview(self._incoming) as shared:
                arrays = [
                    bytearray(shared[place : place + size])
                    for place, size in zip(places, sizes, strict=True)
                ]
        return pickle.loads(pickled, buffers=arrays)

    def close(self) -> None:
        """Close this end, of which the other one learns."""
        self._connection.close()
        self._outgoing.close()
        self._incoming.close()


class _Pickler(pickle.Pickler):
    """Arrays of bfloat16 beside the pickle too, where numpy itself has only its own formats."""

    def reducer_override(self, value: object) -> Any:
        if isinstance(value, np.ndarray) and value.dtype == ml_dtypes.bfloat16:
            return _bfloat16, (np.ascontiguousarray(value).view(np.uint16),)
        return NotImplemented


def _bfloat16(bits: NDArray[np.uint16]) -> NDArray[Any]:
    return bits.view(ml_dtypes.bfloat16)


def _shared_memory() -> int:
    """A descriptor of `BLOCK_BYTES` of memory without a name."""
    if sys.platform == "linux":
        # Not in /dev/shm, of which containers have little.
        descriptor = os.memfd_create("hat-rows")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, BLOCK_BYTES)
    return descriptor


def _mapped(descriptor: int) -> mmap.mmap:
    mapped = mmap.mmap(descriptor, BLOCK_BYTES)
    os.close(descriptor)
    return mapped


def _places(sizes: Sequence[int]) -> list[int] | None:
    """Where arrays of these sizes lie in the shared block; None: they do not fit."""
    places, end = [], 0
    for size in sizes:
        places.append(end)
        end += -(-size // _ALIGN_BYTES) * _ALIGN_BYTES
    return places if end <= BLOCK_BYTES else None

"""The engine's process: loads an engine and does what it is asked, until its parent is gone."""

import itertools
import os
import threading
import traceback
from typing import Any

from cloud_server.engines.engine import HostCopy, MiddleEngine
from cloud_server.engines.hosting.calls import Call, CopyName, Reply, Start, facts_of
from cloud_server.engines.hosting.channel import Channel, End
from process.program.garbage import leave_out_what_is_loaded
from process.program.logs import configure_logs

_READABLE = frozenset({"builtins", "cloud_server", "process", "submodels", "wire"})
"""Whose errors the parent can read: it has imported these, or they take no time."""


def main(descriptors: str) -> None:
    """Serve over the descriptors `socket,outgoing,incoming` until the other end is closed.

    Standard input is a pipe to which the parent never writes: with it this process ends at once,
    in mid-step too, however the parent has ended.
    """
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    channel = Channel(End(*map(int, descriptors.split(","))))
    try:
        serve(channel)
    except (EOFError, OSError):
        return


def serve(channel: Channel) -> None:
    """Load what the first message names, then answer calls.

    Raises:
        EOFError: the other end is closed.
        OSError: likewise.
    """
    start: Start = channel.receive()
    configure_logs(start.config.log_level, start.config.log_format)
    try:
        loaded = start.load(start.bundle, start.config)
    except Exception as error:
        channel.send(Reply(error=_crossing(error)))
        return
    leave_out_what_is_loaded()
    channel.send(Reply(facts_of(loaded)))
    try:
        answer_calls(channel, loaded.engine)
    finally:
        loaded.close()


def answer_calls(channel: Channel, engine: MiddleEngine) -> None:
    """Do what an engine is asked, until the other end is closed.

    Raises:
        EOFError: it is.
        OSError: likewise.
    """
    called = CalledEngine(engine)
    while True:
        channel.send(called.answer(channel.receive()))


class CalledEngine:
    """An engine and its copies in host memory, which are named by numbers outside."""

    def __init__(self, engine: MiddleEngine) -> None:
        self._engine = engine
        self._numbers = itertools.count()
        self._copies: dict[int, HostCopy] = {}

    def answer(self, call: Call) -> Reply:
        """Make a call, and wait for what it begins."""
        try:
            return Reply(getattr(self, f"_{call.method}")(*call.arguments))
        except Exception as error:
            return Reply(error=_crossing(error))

    def _open(self, *arguments: Any) -> Any:
        return self._engine.open(*arguments)

    def _step(self, *arguments: Any) -> Any:
        return self._engine.step(*arguments)

    def _release(self, *arguments: Any) -> None:
        self._engine.release(*arguments)

    def _save(self, *arguments: Any) -> CopyName:
        copy = self._engine.save(*arguments)
        copy.wait()
        name = CopyName(next(self._numbers), copy.begin, copy.end)
        self._copies[name.number] = copy
        return name

    def _restore(self, sequence: Any, name: CopyName, begin: int, end: int) -> None:
        self._engine.restore(sequence, self._copies[name.number], begin, end).wait()

    def _drop(self, name: CopyName) -> None:
        self._engine.drop(self._copies.pop(name.number)).wait()


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def _crossing(error: Exception) -> Exception:
    """The error as the parent can read it, with its traceback as a note.

    Of other packages' errors the words remain: the parent would have to import the package.
    """
    trace = "In the engine's process:\n" + "".join(traceback.format_exception(error))
    if type(error).__module__.partition(".")[0] not in _READABLE:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(trace)
    return error

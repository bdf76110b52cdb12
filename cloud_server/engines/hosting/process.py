"""The process of a hosted engine: started, asked to load, watched, ended."""

import os
import signal
import subprocess
import sys

from cloud_server.config import CloudConfig
from cloud_server.engines.hosting.calls import Facts, Reply, Start
from cloud_server.engines.hosting.channel import Channel, make_ends
from cloud_server.engines.hosting.engine import HostedEngine
from cloud_server.engines.loading import EngineLoader, LoadedEngine
from process.errors import PassingError
from submodels.bundle.bundle import Bundle

_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from cloud_server.engines.hosting.child import main; main(sys.argv[1])"
)
"""Modules come from where this process has them, and not from the folder it happens to be in."""

_END_S = 5.0
_SIGNALS_OF_THE_PARENT = {signal.SIGINT, signal.SIGTERM}
"""Whoever sends them to a whole group of processes means the program, which ends its engine when
its answers are done."""


def can_host() -> bool:
    """Whether this system can give a new process descriptors of the old one; Windows cannot."""
    return os.name == "posix"


def in_own_process(load: EngineLoader) -> EngineLoader:
    """The same loader, with the engine in a process of its own. `load` is a function of a module,
    which is imported there."""

    def load_there(bundle: Bundle, config: CloudConfig) -> LoadedEngine:
        return load_in_own_process(Start(load, bundle, config))

    return load_there


def load_in_own_process(start: Start) -> LoadedEngine:
    """Start a process and have it load an engine.

    Raises:
        PassingError: it ended before it had loaded, as one that is killed for its memory.
        Exception: what the loader raised there.
    """
    process, channel = _started()

    def close() -> None:
        channel.close()
        _end(process)

    try:
        channel.send(start)
        reply: Reply = channel.receive()
    except (EOFError, OSError) as error:
        close()
        raise PassingError(f"{_how_ended(process)} while it loaded the model") from error
    except BaseException:
        close()
        raise
    if reply.error is not None:
        close()
        raise reply.error
    facts: Facts = reply.value
    return LoadedEngine(
        HostedEngine(channel, facts, lambda: _how_ended(process)),
        facts.description,
        facts.kv_bytes_per_token,
        close=close,
        kv_host_bytes=facts.kv_host_bytes,
        why_lost=lambda: None if process.poll() is None else _how_ended(process),
    )


def _started() -> tuple[subprocess.Popen[bytes], Channel]:
    """A process, and this end of a channel to it."""
    ours, theirs = make_ends()
    path = [os.path.abspath(folder) for folder in sys.path]
    descriptors = ",".join(map(str, theirs.descriptors))
    try:
        process = _popen([sys.executable, "-c", _PROGRAM, descriptors, *path], theirs.descriptors)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return process, Channel(ours)


def _popen(command: list[str], given: tuple[int, ...]) -> subprocess.Popen[bytes]:
    """A process that the signals of its parent do not reach; it inherits this thread's mask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS_OF_THE_PARENT)
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=given)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let it end, which it does when its standard input does, or kill it."""
    assert process.stdin is not None, "a pipe was asked for"
    process.stdin.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _how_ended(process: subprocess.Popen[bytes]) -> str:
    """For people; to be asked when nothing comes from it any more."""
    try:
        code = process.wait(_END_S)
    except subprocess.TimeoutExpired:
        return "the engine's process does not answer"
    if code < 0:
        return f"the engine's process was ended by {signal.Signals(-code).name}"
    return f"the engine's process ended with exit code {code}"

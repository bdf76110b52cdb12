"""A template in a process of its own: asked from any thread, ended when it runs too long."""

import contextlib
import json
import os
import queue
import select
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from device_runtime.text.template_worker import read_document, write_document

_START = (
    "import sys; sys.path[:] = {path}; "
    "from device_runtime.text.template_worker import main; "
    "main({cpu_s}, {memory_bytes}, {max_characters})"
)

# What Python itself needs to start; secrets among the user's variables are none of a template's
# business.
_KEPT_VARIABLES = (
    *("PATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL"),
    *("SYSTEMROOT", "TEMP"),
)
"""The latter two are Windows'."""


@dataclass(frozen=True, slots=True)
class TemplateLimits:
    """What one rendering may take.

    Thousands of messages take a template some hundredths of a second of processor time. `wall_s`
    is for a busy machine, on which a second of it may take many, and `start_s` for starting.
    """

    cpu_s: float = 1.0
    wall_s: float = 3.0
    start_s: float = 30.0
    memory_bytes: int = 512 << 20
    max_characters: int = 1 << 24
    num_processes: int = 2


class TemplateProcessError(Exception):
    """The template failed, in its own words, or took more than it may."""


class TemplateEndlessError(TemplateProcessError):
    """The template was ended: it ran too long, or died."""


class TemplateProcesses:
    """A few processes over one template; started when needed, again after one was ended."""

    def __init__(self, source: str, limits: TemplateLimits) -> None:
        self._source = source
        self._limits = limits
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes] | None] = queue.SimpleQueue()
        for _ in range(limits.num_processes):
            self._idle.put(None)

    def compile(self) -> None:
        """Start a first process.

        Raises:
            TemplateProcessError: the template does not compile.
        """
        with self._process():
            pass

    def render(self, variables: Mapping[str, Any], now: str) -> str:
        """The text of the template; waits, so it is not for an event loop.

        Args:
            variables: What the template sees; plain data.
            now: The local time, in ISO 8601.

        Raises:
            TemplateProcessError: the template failed or took too much.
        """
        with self._process() as process:
            request = {"variables": variables, "now": now}
            return self._ask(process, request, self._limits.wall_s)

    def close(self) -> None:
        """End the processes that are idle; those at work end with their work."""
        with contextlib.suppress(queue.Empty):
            while True:
                process = self._idle.get_nowait()
                if process is not None:
                    _end(process)

    @contextmanager
    def _process(self) -> Iterator[subprocess.Popen[bytes]]:
        """One process for the caller alone; one that was ended does not come back."""
        process = self._idle.get()
        try:
            if process is None or process.poll() is not None:
                process = self._started()
            yield process
        finally:
            alive = process is not None and process.poll() is None
            self._idle.put(process if alive else None)

    def _started(self) -> subprocess.Popen[bytes]:
        limits = self._limits
        code = _START.format(
            path=json.dumps(sys.path),
            cpu_s=limits.cpu_s,
            memory_bytes=limits.memory_bytes,
            max_characters=limits.max_characters,
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
        )
        weakref.finalize(self, _end, process)
        try:
            self._ask(process, {"source": self._source}, self._limits.start_s)
        except TemplateProcessError:
            _end(process)
            raise
        return process

    def _ask(self, process: subprocess.Popen[bytes], request: object, wall_s: float) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            write_document(process.stdin, request)
        except RecursionError:
            raise TemplateProcessError("its variables are nested too deeply") from None
        except OSError:
            _end(process)
        try:
            with _ended_after(process, wall_s):
                body = read_document(process.stdout)
        except (OSError, ValueError):
            body = None
        if body is None:
            _end(process)
            raise TemplateEndlessError(
                f"it takes more than {self._limits.cpu_s:g} s of processor time, "
                f"{self._limits.wall_s:g} s in all, or too much memory"
            )
        answer = json.loads(body)
        if "error" in answer:
            raise TemplateProcessError(answer["error"])
        text: str = answer["text"]
        return text


@contextmanager
def _ended_after(process: subprocess.Popen[bytes], timeout_s: float) -> Iterator[None]:
    """End the process unless it answers in time, which the body reads.

    Raises:
        OSError: it had to be ended; whatever was read does not count.
    """
    if hasattr(select, "poll"):
        poll = select.poll()
        assert process.stdout is not None
        poll.register(process.stdout, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            raise TimeoutError
        yield
        return
    # Windows waits for sockets only.
    is_late = threading.Event()

    def end() -> None:
        is_late.set()
        process.kill()

    timer = threading.Timer(timeout_s, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
    if is_late.is_set():
        raise TimeoutError


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, if it still runs, and forget it."""
    with contextlib.suppress(OSError):
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()

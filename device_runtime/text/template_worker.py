"""The process that runs one chat template, bounded in processor time, memory and output.

It is started with two pipes and its limits, speaks JSON documents of known length, and ends with
its parent. What runs too long is ended by the system's own timer, also inside a library.
"""

import contextlib
import json
import resource
import signal
import struct
import sys
from datetime import datetime
from typing import IO

from device_runtime.text.template_environment import Clock, make_environment, reason_of, render

_LENGTH = struct.Struct("<Q")
# What Python and jinja2 themselves take; the rest of the limit is the template's.
_OWN_BYTES = 256 << 20


def main(cpu_s: float, memory_bytes: int, max_characters: int) -> None:
    """Serve until the parent closes the pipe: first a template's source, then its renderings."""
    # Ctrl-C reaches every process of a terminal; this one ends when its parent does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        limit = _OWN_BYTES + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    clock = Clock(datetime.now())  # noqa: DTZ005  (templates print local dates)
    environment = make_environment(clock)
    template = None
    while (body := read_document(requests)) is not None:
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        try:
            request = json.loads(body)
            if template is None:
                template, text = environment.from_string(request["source"]), ""
            else:
                clock.now = datetime.fromisoformat(request["now"])
                text = render(template, request["variables"])
            answer = {"text": text}
            if len(text) > max_characters:
                answer = {"error": f"its text is longer than {max_characters} characters"}
        except Exception as error:
            answer = {"error": reason_of(error)[:2000]}
        signal.setitimer(signal.ITIMER_PROF, 0)
        write_document(answers, answer)


def read_document(pipe: IO[bytes]) -> bytes | None:
    """The next document as it was sent, or None when the other side is gone."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (num_bytes,) = _LENGTH.unpack(head)
    body = pipe.read(num_bytes)
    return body if len(body) == num_bytes else None


def write_document(pipe: IO[bytes], document: object) -> None:
    """Send a document whole. Halves of surrogate pairs pass as they are.

    Raises:
        OSError: the other side is gone.
    """
    body = json.dumps(document).encode()
    pipe.write(_LENGTH.pack(len(body)) + body)
    pipe.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

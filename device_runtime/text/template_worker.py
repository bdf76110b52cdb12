"""The process that runs one chat template, bounded in processor time, memory and output.

A template is part of a downloaded model, so it may do anything: it runs here alone, in jinja2's
sandbox. The process is started with two pipes and its limits, speaks JSON documents of known
length, and ends with its parent. What runs too long is ended by the system's own timer, also inside
a library; on Windows, which has neither that timer nor limits of memory, by the parent.
"""

import contextlib
import json
import signal
import struct
import sys
from datetime import datetime
from typing import IO

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_LENGTH = struct.Struct("<Q")
# What Python and jinja2 themselves take; the rest of the limit is the template's.
_OWN_BYTES = 256 << 20

_NOT_THE_TEMPLATES_WORDS = {
    MemoryError: "it takes too much memory",
    RecursionError: "it calls itself too often",
}


def main(cpu_s: float, memory_bytes: int, max_characters: int) -> None:
    """Serve until the parent closes the pipe: first a template's source, then its renderings."""
    # Ctrl-C reaches every process of a terminal; this one ends when its parent does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit_memory(_OWN_BYTES + memory_bytes)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    template = None
    while (body := read_document(requests)) is not None:
        _limit_time(cpu_s)
        try:
            request = json.loads(body)
            if template is None:
                template, text = _environment().from_string(request["source"]), ""
            else:
                now = datetime.fromisoformat(request["now"])
                text = template.render({"strftime_now": now.strftime, **request["variables"]})
            answer = {"text": text}
            if len(text) > max_characters:
                answer = {"error": f"its text is longer than {max_characters} characters"}
        except Exception as error:
            answer = {"error": _reason_of(error)[:2000]}
        _limit_time(0)
        write_document(answers, answer)


def _limit_memory(num_bytes: int) -> None:
    """Where the system knows limits."""
    try:
        import resource
    except ImportError:
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))


def _limit_time(cpu_s: float) -> None:
    """From now on so much time of the processor, where the system has such a timer; 0: no limit."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, cpu_s)


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


def _environment() -> ImmutableSandboxedEnvironment:
    """What templates of models rely on beside the variables they are given, in a sandbox.

    Source: "Chat templates" in the documentation of transformers, and its `chat_template_utils`.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlock]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _reason_of(error: Exception) -> str:
    """Why a template failed: in its own words, or by what ran out."""
    if type(error) in _NOT_THE_TEMPLATES_WORDS:
        return _NOT_THE_TEMPLATES_WORDS[type(error)]
    if isinstance(error, jinja2.TemplateError):
        return str(error)
    return str(error) or type(error).__name__


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's words for training; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012  (as the library declares it)

    def parse(self, parser: Parser) -> list[Node]:
        """The statements inside the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> str:
    raise jinja2.TemplateError(message)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the HTML escapes of jinja2's own filter."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )

"""Log lines for people or for programs. No line holds a prompt, a token or a secret."""

import logging
import sys
import time
import traceback
from typing import Literal

import msgspec

FIELDS = "fields"
"""The name under which `extra` carries a line's figures."""


def setup_logging(level: str, style: Literal["text", "json"]) -> None:
    """Send this program's log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if style == "json" else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # It repeats what our own lines say, and its messages quote the request.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)


def with_fields(**fields: object) -> dict[str, object]:
    """Figures for a log line, as the `extra` of a logging call."""
    return {FIELDS: fields}


def describe_error(error: BaseException) -> str:
    """Where an unexpected error came from, without its message, which may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in frames[::-1])
    return f"{type(error).__name__} in {places or 'unknown'}"


class _TextFormatter(logging.Formatter):
    """`12:34:56 INFO message key=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields = getattr(record, FIELDS, {})
        parts = [
            time.strftime("%H:%M:%S", time.localtime(record.created)),
            record.levelname,
            record.getMessage(),
            *(f"{name}={value}" for name, value in fields.items()),
        ]
        return " ".join(parts)


class _JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time_s": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        return msgspec.json.encode(line, enc_hook=str).decode()

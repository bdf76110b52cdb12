"""Log lines for people or for programs.

No line holds a prompt, a token, a secret, or anything else that a peer sent.
"""

import logging
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

import msgspec

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

_FIELDS = "fields"


def configure_logs(
    level: LogLevel, log_format: LogFormat, *, quotes_no_requests: bool = False
) -> None:
    """Write this process's log to standard error.

    With `quotes_no_requests` the HTTP server's own messages are left out, which quote requests.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if quotes_no_requests:
        logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)


def with_fields(**fields: object) -> dict[str, object]:
    """Figures for a log line, as the `extra` of a logging call."""
    return {_FIELDS: fields}


def describe_error(error: BaseException) -> str:
    """Where an unexpected error came from, without its message, which may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in frames[::-1])
    return f"{type(error).__name__} in {places or 'unknown'}"


class _TextFormatter(logging.Formatter):
    """`2026-11-20 13:00:01.123 info request route=/v1/models status=200`."""

    def format(self, record: logging.LogRecord) -> str:
        time = _time(record).isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00")
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        line = f"{time} {record.levelname.lower()} {record.getMessage()}{fields}"
        return line + (f"\n{self.formatException(record.exc_info)}" if record.exc_info else "")


class _JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, figures, a trace if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields: Mapping[str, object] = getattr(record, _FIELDS, {})
    return fields


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)

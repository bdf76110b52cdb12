"""Log lines for people or for programs. They name numbers of connections and sessions, nothing
that a device sent: no rows, no keys, no credentials.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]


class _TextFormatter(logging.Formatter):
    """`2026-11-20 13:00:01.123 info engine loaded`."""

    def format(self, record: logging.LogRecord) -> str:
        time = _time(record).isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00")
        line = f"{time} {record.levelname.lower()} {record.getMessage()}"
        return line + (f"\n{self.formatException(record.exc_info)}" if record.exc_info else "")


class _JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and a trace where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _time(record).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def configure_logs(level: LogLevel, log_format: LogFormat) -> None:
    """Write this process's log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)

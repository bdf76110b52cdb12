"""Log lines are one line each, for people or for programs."""

import json
import logging
import sys

from process.program.logs import _JsonFormatter, _TextFormatter


def _record(message: str, *arguments: object, fails: bool = False) -> logging.LogRecord:
    trace = None
    if fails:
        try:
            raise RuntimeError("planted")
        except RuntimeError:
            trace = sys.exc_info()
    record = logging.LogRecord("cloud", logging.WARNING, "f.py", 1, message, arguments, trace)
    record.created = 0.25
    return record


def test_text_lines_have_time_level_and_message():
    line = _TextFormatter().format(_record("connection %d cut", 3))
    assert line == "1970-01-01 00:00:00.250 warning connection 3 cut"


def test_text_keeps_the_trace_of_an_error():
    assert _TextFormatter().format(_record("failed", fails=True)).endswith("RuntimeError: planted")


def test_json_lines_can_be_read_back():
    line = _JsonFormatter().format(_record('a "quoted"\nmessage', fails=True))
    fields = json.loads(line)
    assert "\n" not in line
    assert fields["time"] == "1970-01-01T00:00:00.250+00:00"
    assert (fields["level"], fields["message"]) == ("warning", 'a "quoted"\nmessage')
    assert "RuntimeError: planted" in fields["trace"]

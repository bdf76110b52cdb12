"""Log lines are one line each, for people or for programs."""

import json
import logging
import sys

from process.program.logs import _JsonFormatter, _TextFormatter, describe_error, with_fields


def record(**extra):
    logger = logging.Logger("room")
    made = logger.makeRecord("room", logging.WARNING, "file", 1, "said %d", (3,), None, extra=extra)
    made.created = 1_790_000_000.25
    return made


def failure():
    try:
        raise ValueError("once upon a time")
    except ValueError as error:
        return error


def test_a_line_for_people_has_time_level_message_and_figures():
    line = _TextFormatter().format(record(**with_fields(status=200, route="/v1/models")))
    assert line == "2026-09-21 14:13:20.250 warning said 3 status=200 route=/v1/models"


def test_a_line_for_programs_is_one_json_object():
    line = _JsonFormatter().format(record(**with_fields(status=200)))
    assert json.loads(line) == {
        "time": "2026-09-21T14:13:20.250+00:00",
        "level": "warning",
        "logger": "room",
        "message": "said 3",
        "status": 200,
    }
    assert "\n" not in line


def test_a_message_of_several_lines_is_one_line_for_programs():
    made = record()
    made.msg, made.args = 'a "quoted"\nmessage', ()
    line = _JsonFormatter().format(made)
    assert "\n" not in line
    assert json.loads(line)["message"] == 'a "quoted"\nmessage'


def test_a_trace_is_kept_in_both():
    made = record()
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        made.exc_info = sys.exc_info()
    assert "RuntimeError: broken" in _TextFormatter().format(made)
    assert "RuntimeError: broken" in json.loads(_JsonFormatter().format(made))["trace"]


def test_an_error_is_described_by_its_type_and_place_only():
    described = describe_error(failure())
    assert described.startswith("ValueError in failure (")
    assert "once upon a time" not in described

"""Files of texts, one to a line, as editors and other programs write them."""

import json
from pathlib import Path

import pytest

from adapters.data.corpus import stories
from hat.text_lines import json_line, text_lines
from hat.verify.prompts import read_prompts

ENDS_OF_LINES_IN_UNICODE = "one\u2028two\u2029three\x85four\x0cfive"


def test_a_line_ends_where_editors_say_and_a_mark_of_utf_8_is_no_part_of_it(tmp_path: Path):
    path = tmp_path / "texts.jsonl"
    line = json.dumps({"prompt": ENDS_OF_LINES_IN_UNICODE}, ensure_ascii=False)
    path.write_bytes(f"\ufeff{line}\r\n{line}\n".encode())
    assert text_lines(path) == [line, line, ""]
    assert read_prompts(path) == (ENDS_OF_LINES_IN_UNICODE,) * 2


def test_a_prompt_of_plain_text_is_a_line_as_well(tmp_path: Path):
    path = tmp_path / "prompts.txt"
    path.write_bytes(f"\ufeff{ENDS_OF_LINES_IN_UNICODE}\r\nsix".encode())
    assert read_prompts(path) == (ENDS_OF_LINES_IN_UNICODE, "six")
    assert next(stories([path])).startswith("one")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (r'{"text": "half a \ud83d"}', "half a character"),
        ("[" * 100_000, "nested too deeply"),
        ("1" * 5000, "digits"),
        ("once", "Expecting value"),
    ],
)
def test_a_line_that_no_model_reads_is_refused_with_the_reason(line: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        json_line(line)


def test_a_whole_character_in_two_halves_is_one():
    assert json_line(r'"\ud83d\ude00"') == "\U0001f600"

"""Files of texts that a user names: one to a line, or in an object of JSON to a line."""

import json
from pathlib import Path
from typing import Any


def text_lines(path: Path) -> list[str]:
    """The lines of a file; a mark of UTF-8 before the first one is skipped.

    A line ends at LF, CR or both. What else Unicode takes for the end of one (U+2028, a form
    feed) stands inside texts, and JSON need not escape it.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    return path.read_text(encoding="utf-8-sig").split("\n")


def json_line(line: str) -> Any:
    """What a line of JSON says.

    Raises:
        ValueError: it is no JSON, or has half a character, which no tokenizer reads.
    """
    try:
        value: Any = json.loads(line)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("it has half a character (a lone surrogate)") from error
    return value

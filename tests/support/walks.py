"""Which of the project's files run, to be compared with a walk that the documents describe."""

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"


@contextmanager
def files_that_run() -> Iterator[tuple[set[str], Callable[[], None]]]:
    """The project's files of which a function is called, and what forgets those until now."""
    files: set[str] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        name = frame.f_code.co_filename
        # An environment may lie in the checkout, in a folder that begins with a dot.
        if event == "call" and name.startswith(f"{ROOT}/") and not name.startswith(f"{ROOT}/."):
            files.add(name.removeprefix(f"{ROOT}/"))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield files, files.clear
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def section(heading: str) -> str:
    """A section of the document."""
    pattern = re.compile(rf"^## {heading}$.*?(?=^## )", re.MULTILINE | re.DOTALL)
    text = pattern.search(DOCUMENT.read_text())
    assert text is not None
    return text[0]


def files_named(text: str, rooms: str) -> set[str]:
    """The files that a text names, of rooms given as `wire|chunking`."""
    return set(re.findall(rf"`((?:{rooms})/[\w/]+\.py)`", text))

"""The walk of one States frame in docs/architecture.md names the files that really run."""

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tests.support.cloud_client import hello_for, random_rows, session_key, welcomed
from tests.support.world import serve_cloud

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"
WALK = re.compile(r"^## One States frame$.*?(?=^## )", re.MULTILINE | re.DOTALL)

MOST_FILES = 30


@contextmanager
def files_that_run() -> Iterator[tuple[set[str], Callable[[], None]]]:
    """The project's files of which a function is called, and what forgets those until now."""
    files: set[str] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(f"{ROOT}/"):
            files.add(name.removeprefix(f"{ROOT}/"))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield files, files.clear
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def walk() -> tuple[set[str], set[str]]:
    """The files on the way, and those beside it."""
    text = WALK.search(DOCUMENT.read_text())
    assert text is not None
    on_the_way, beside = text[0].split("These are ")
    named = re.compile(r"`((?:wire|process|cloud_server)/[\w/]+\.py)`")
    return set(named.findall(on_the_way)), set(named.findall(beside))


async def test_a_frame_passes_through_the_files_that_its_walk_names(config, bundle):
    with files_that_run() as (files, forget):
        async with (
            serve_cloud(config) as server,
            welcomed(server.link_url, hello_for(bundle.manifest)) as client,
        ):
            await client.open(1, session_key(1), 64)
            await client.run(1, 0, random_rows(8))
            forget()
            await client.run(1, 8, random_rows(4))
            passed = {*files}
    passed = {name for name in passed if not name.startswith("tests/")}
    on_the_way, beside = walk()
    assert passed - on_the_way - beside == set()
    # Records: they are made here, and no code of theirs runs.
    assert (on_the_way | beside) - passed <= {"wire/messages.py", "cloud_server/core/actions.py"}
    assert len(on_the_way) <= MOST_FILES
    assert f"These are {len(on_the_way)} files. " in DOCUMENT.read_text()

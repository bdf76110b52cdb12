"""The walk of one States frame in docs/architecture.md names the files that really run."""

from tests.support.cloud_client import hello_for, random_rows, session_key, welcomed
from tests.support.walks import DOCUMENT, files_named, files_that_run, section
from tests.support.world import serve_cloud

MOST_FILES = 30
ROOMS = "wire|process|cloud_server"


def walk() -> tuple[set[str], set[str]]:
    """The files on the way, and those beside it."""
    on_the_way, beside = section("One States frame").split("These are ")
    return files_named(on_the_way, ROOMS), files_named(beside, ROOMS)


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

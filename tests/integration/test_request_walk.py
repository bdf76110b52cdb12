"""The walk of one chat request in docs/architecture.md names the files that really run."""

import asyncio

import aiohttp

from tests.support.reference import STORIES
from tests.support.stack import running_stack, split_for_serving
from tests.support.walks import files_named, files_that_run, section

ROOMS = "device_runtime|chunking|wire|process"
RECORDS = {"device_runtime/session/actions.py", "wire/messages.py"}
"""They are made on the way, and no code of theirs carries anything."""

_LOOKS, _LOOK_S = 100, 0.05

MOST_FILES = 30
MOST_SHAPES = 9

CHAT = {
    "messages": [{"role": "user", "content": "Once upon a time there was a little girl."}],
    "max_tokens": 40,
    "temperature": 0,
    "stream": True,
}


async def test_a_request_passes_through_the_files_that_its_walk_names(tmp_path):
    bundles = split_for_serving(STORIES, tmp_path / "split", 1)
    text = section("One chat request")
    up, back = text.split("Back, and round by round:")
    on_the_way_up = files_named(up, ROOMS) - RECORDS
    named = on_the_way_up | files_named(back, ROOMS)
    with files_that_run() as (files, forget):
        # Whether rows are coded, and by which files, is decided by what was measured.
        async with (
            running_stack(bundles, {"wire_codec": "raw"}) as stack,
            aiohttp.ClientSession() as http,
        ):
            url = f"{stack.device.url}/v1/chat/completions"
            for _ in range(2):
                # Of the second, nothing happens for the first time.
                forget()
                async with http.post(url, json=CHAT) as response:
                    assert "[DONE]" in await response.text()
            # What a text teaches is learnt once its answer is out.
            for _ in range(_LOOKS):
                passed = {*files}
                if named - RECORDS <= passed:
                    break
                await asyncio.sleep(_LOOK_S)
    # The cloud is in this process too, so all that runs is looked for in the device's rooms only.
    passed_here = {name for name in passed if name.startswith(("device_runtime/", "chunking/"))}
    assert passed_here - named == set()
    assert named - passed <= RECORDS
    assert len(on_the_way_up) <= MOST_FILES
    assert f"These are {len(on_the_way_up)} files and {MOST_SHAPES} shapes" in text
    assert f"[{MOST_SHAPES}]" in up
    assert f"[{MOST_SHAPES + 1}]" not in up

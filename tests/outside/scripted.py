"""`python -m tests.outside.scripted PORT`: the endpoint over a model that says the right thing.

Of a few texts it says the first that the request's grammar allows, behind results words first.
So clients are seen to work where the words of a small model would fail them.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from device_runtime.api.app import make_runner
from device_runtime.calling.layouts import GENERIC
from device_runtime.generation.request import GenerationRequest
from device_runtime.grammar.compiling import Grammars
from tests.integration.test_tool_calls import ids_of
from tests.support.api_server import EOS, make_service
from tests.support.fake_generator import FakeGenerator
from tests.support.tokenizers import story_tokenizer

ROME: dict[str, Any] = {"city": "Rome", "days": 2}
WORDS = "It is sunny in Rome."
_CALLS: list[tuple[str, dict[str, Any]]] = [
    ("get_weather", ROME),
    ("get_weather", {"city": "Rome"}),
    ("Trip", ROME),
    ("final_result", ROME),
    ("final_answer", {"answer": WORDS}),
    ("json", ROME),
    ("json_tool_call", ROME),
]
_RESULTS = ("<tool_response>\n", "It is 21 degrees")
"""What is said of tools names the mark too, but puts nothing behind it."""


def texts(has_result: bool) -> list[str]:
    """What it may say, the first first."""
    calls = [GENERIC.written([call]) for call in _CALLS]
    if has_result:
        # What was called already is not called again.
        calls = [*calls[2:], *calls[:2]]
        return [WORDS, json.dumps(ROME), *calls]
    return [*calls, json.dumps(ROME), json.dumps({"trip": ROME}), WORDS]


def answer(request: GenerationRequest) -> Sequence[int]:
    """The ids of the first text that is allowed."""
    prompt = story_tokenizer().decode(list(request.prompt_ids))
    has_result = any(result in prompt for result in _RESULTS)
    if request.grammar is None:
        # Clients that ask for JSON in words alone, since they know nothing of the endpoint.
        return [*ids_of(json.dumps(ROME) if "JSON object" in prompt else WORDS), EOS]
    for text in texts(has_result):
        constraint, ids = request.grammar.start(), ids_of(text)
        if constraint.num_valid((), ids) == len(ids) and constraint.allowed(ids)[EOS]:
            return [*ids, EOS]
    return [*ids_of("{"), EOS]


async def serve(port: int) -> None:
    """Until it is ended."""
    tokenizer = story_tokenizer()
    grammars = Grammars(tokenizer.as_json(), 512, (EOS,))
    generator = FakeGenerator(answer, max_context_tokens=65_536)
    service = make_service(generator, call_layout=GENERIC, grammars=grammars)
    runner = make_runner(service)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))

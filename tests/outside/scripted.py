"""`python -m tests.outside.scripted PORT`: the endpoint over a model that says the right thing.

Of a few texts it says the first that the request's grammar allows, behind results words first;
where none is allowed, some text that is.
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
from device_runtime.generation.grammar import Constraint
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
    ("Weather-get_weather", ROME),
    ("json_tool_call", ROME),
]
_STEP = {"next_thought": "", "next_tool_name": "get_weather", "next_tool_args": ROME}
"""What DSPy asks for where any object of JSON is allowed."""
_RESULTS = ("<tool_response>\n", "It is 21 degrees")
"""What is said of tools names the mark too, but puts nothing behind it."""
_CLOSING = '"}]0tfn,: '
"""Of what JSON is made of, the first that may come ends it soonest."""
_MAX_TOKENS = 2000


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
    step = [json.dumps(_STEP)] if "next_tool_name" in prompt else []
    for text in (*step, *texts(has_result)):
        constraint, ids = request.grammar.start(), ids_of(text)
        if constraint.num_valid((), ids) == len(ids) and constraint.allowed(ids)[EOS]:
            return [*ids, EOS]
    return any_text(request.grammar.start())


def any_text(constraint: Constraint) -> list[int]:
    """The ids of some text that is allowed: what is forced, and else what ends soonest."""
    ids: list[int] = []
    closing = ids_of(_CLOSING)
    while len(ids) < _MAX_TOKENS:
        allowed = constraint.allowed(ids)
        if allowed[EOS]:
            return [*ids, EOS]
        forced = constraint.forced(ids)
        first = next((token for token in closing if allowed[token]), int(allowed.argmax()))
        ids += forced or [first]
    return ids


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

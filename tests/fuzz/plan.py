"""Requests that were read, on to what is generated: tokens, sampling, grammars, tools, limits.

As `tests.fuzz.http`, but with values that are mostly of the right type, over a real tokenizer and
chat template, up to the job that would run.
"""

import asyncio
import functools
import time
from typing import Any

from device_runtime.api.errors import ApiError, as_api_error
from device_runtime.api.job.plan import Job, plan_chat, plan_completion
from device_runtime.api.request.body import ChatRequest, CompletionRequest, decode_request
from device_runtime.api.service import Service
from device_runtime.grammar.compiling import Grammars
from tests.fuzz.draws import Draws
from tests.fuzz.http import WORDS, json_of
from tests.support.api_server import make_service, story_generator
from tests.support.tokenizers import story_tokenizer

SCHEMAS: tuple[Any, ...] = (
    {},
    True,
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    {"enum": ["yes", "no", 3]},
    {"type": "array", "items": {"$ref": "#"}, "maxItems": 2},
    {"type": "string", "pattern": "^(a+)+$", "maxLength": 9},
    {"anyOf": [{"const": None}, {"type": "number", "minimum": 1, "multipleOf": 0.1}]},
    {"$ref": "#/definitions/none"},
    {"oneOf": [{"type": "object", "additionalProperties": False}]},
    {"type": ["string", "null"], "format": "date-time"},
)
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": SCHEMAS[2]}}


def _choices(draws: Draws) -> dict[str, Any]:
    """Fields of both kinds of request, with values near those that are meant."""
    whole = (0, 1, 2, 5, 16, 511, 512, 600, 2**31 - 1, -1)
    parts = (0.0, 0.5, 1.0, 2.0, 1e-9, -0.5, 10.0)
    made: dict[str, Any] = {
        "max_tokens": draws.pick(whole),
        "min_tokens": draws.pick(whole),
        "temperature": draws.pick(parts),
        "top_p": draws.pick(parts),
        "top_k": draws.pick(whole),
        "min_p": draws.pick(parts),
        "presence_penalty": draws.pick(parts),
        "repetition_penalty": draws.pick(parts),
        "n": draws.pick((1, 2, 128)),
        "seed": draws.pick((0, -1, 2**63 - 1)),
        "stop": draws.pick((["a", "bc"], "\n", ["\ud83d"], [])),
        "stop_token_ids": draws.pick(([1], [511], [512], [])),
        "logit_bias": draws.pick(({"5": 1}, {"x": 1}, {"511": -100.0}, {"600": 1}, {"1": "a"})),
        "allowed_token_ids": draws.pick(([5, 6], [600], [5] * 9)),
        "bad_words": draws.pick((["the"], [" "], ["<s>"])),
        "response_format": draws.pick(
            (
                {"type": "json_object"},
                {"type": "text"},
                {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": draws.pick(SCHEMAS)},
                },
                {"type": "json_schema"},
            )
        ),
        "guided_regex": draws.pick(("[a-c]{2}", "(", "(?=a)b", "a{1000}", "\\p{L}")),
        "guided_choice": draws.pick((["yes", "no"], [], [""], ["\ud83d"])),
        "guided_json": draws.pick(SCHEMAS),
        "guided_grammar": draws.pick(('start: "a" | "b"', "start: start", "root ::= [a-z]", "")),
        "stream": draws.flag(),
        "prompt_logprobs": draws.pick((0, 5, 20)),
        "include_hat_stats": draws.pick((True, "rounds", "timeline")),
        "ignore_eos": draws.flag(),
    }
    names = {draws.pick(list(made)) for _ in range(draws.number(0, 4))}
    return {name: made[name] for name in names}


def _chat(draws: Draws) -> dict[str, Any]:
    roles = ("user", "assistant", "system", "tool", "developer")
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    messages: list[dict[str, Any]] = []
    for _ in range(draws.number(1, 4)):
        message = {"role": draws.pick(roles), "content": draws.pick(WORDS)}
        if draws.one_in(4):
            message |= {"tool_calls": [call]} if draws.flag() else {"tool_call_id": "c1"}
        messages.append(message)
    body: dict[str, Any] = {"messages": messages, **_choices(draws)}
    if draws.one_in(2):
        schema = {"type": "function", "function": {"name": "b", "parameters": draws.pick(SCHEMAS)}}
        body["tools"] = [TOOL, schema][: draws.number(1, 2)]
        body["tool_choice"] = draws.pick(("auto", "required", "none", TOOL, {"type": "x"}))
    if draws.one_in(4):
        body["logprobs"], body["top_logprobs"] = draws.flag(), draws.number(0, 21)
    if draws.one_in(4):
        body["continue_final_message"] = True
        body["add_generation_prompt"] = draws.flag()
    return body


def _completion(draws: Draws) -> dict[str, Any]:
    prompts = ("Once", "", ["a", "b"], [1, 5], [[1, 5], [6]], [[]], [600], "x " * 900, ["a", [1]])
    body: dict[str, Any] = {"prompt": draws.pick(prompts), **_choices(draws)}
    if draws.one_in(3):
        body |= {"echo": draws.flag(), "logprobs": draws.number(0, 5)}
    return body


@functools.cache
def _service() -> Service:
    tokenizer = story_tokenizer()
    grammars = Grammars(tokenizer.as_json(), 512, (2,), tokenizer.special_ids, time.monotonic)
    return make_service(story_generator(), grammars=grammars)


async def _plan(draws: Draws) -> Job:
    if draws.flag():
        chat = decode_request(json_of(_chat(draws), draws.flag()), ChatRequest)
        return await plan_chat(_service(), chat, "fuzz", 0.0, cuts_length=draws.flag())
    completion = decode_request(json_of(_completion(draws), draws.flag()), CompletionRequest)
    return await plan_completion(_service(), completion, "fuzz", 0.0, cuts_length=draws.flag())


async def _outcome(draws: Draws) -> Job | ApiError:
    try:
        return await _plan(draws)
    except Exception as error:
        known = as_api_error(error)
        if known is None:
            raise
        return known


def check(data: bytes) -> int:
    """Plan a request; one.

    Raises:
        Exception: something that would be answered by 500, or a plan beyond its limits.
    """
    outcome = asyncio.run(_outcome(Draws(bytes(data))))
    if isinstance(outcome, ApiError):
        assert 400 <= outcome.status < 500, outcome.message
        return 1
    room = _service().generator.max_context_tokens
    for choice in outcome.choices:
        assert len(choice.generation.prompt_ids) + choice.generation.max_tokens <= room + 1
        assert all(0 <= each < 512 for each in choice.generation.prompt_ids)
    return 1


def seeds() -> list[bytes]:
    """Bytes to begin with."""
    return [bytes((place * 17 + number) % 256 for place in range(160)) for number in range(8)]


def mutated(data: bytes) -> bytes:
    """As they are: every byte is a choice."""
    return data

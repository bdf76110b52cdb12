"""Every parameter says the same through every drafter: ids, texts, log probabilities."""

import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from device_runtime.api.request.body import ChatRequest, CommonFields, CompletionRequest
from device_runtime.sampling.noise import PositionNoise
from device_runtime.sampling.sampler import Sampler
from tests.support.api_server import CHAT, COMPLETIONS, MODEL
from tests.support.every_drafter import Answer, EveryDrafter, Told, every_drafter
from tests.support.examples import at_most
from tests.support.reference import STORIES, load_reference

DOCUMENT = Path(__file__).parents[2] / "docs" / "http-api.md"

# It repeats itself, so that prompt lookup has something to propose as well.
STORY = (
    "Tom had a big red ball. Tom had a big red car. Tom had a big red ball. "
    "Tom had a big red car. Tom had a big"
)
OTHER = "Once upon a time, there was a little girl named"
THE, FULL_STOP = 265, 426
"""Tokens that come often."""

BALL = {
    "type": "object",
    "properties": {
        "owner": {"type": "string", "maxLength": 12},
        "colour": {"enum": ["red", "green", "dark blue"]},
        "size": {"type": "integer", "minimum": 1, "maximum": 250},
    },
    "required": ["owner", "colour", "size"],
    "additionalProperties": False,
}

GIVEN = {
    "type": "object",
    "properties": {"what": {"enum": ["ball", "car"]}},
    "required": ["what"],
    "additionalProperties": False,
}
GIVE = {"type": "function", "function": {"name": "give", "parameters": GIVEN}}
HALF_CALL = "tool_call_incomplete"

EVERYWHERE: Mapping[str, tuple[Any, ...]] = {
    "model": (MODEL,),
    "max_tokens": (1, 2, 5, 33),
    "min_tokens": (0, 9),
    "temperature": (0.0, 1e-300, 0.7, 2.0),
    "top_p": (0, 0.6, 1),
    "top_k": (-1, 0, 1, 7),
    "min_p": (0, 0.2, 1),
    "presence_penalty": (-2, 0.1, 1.5),
    "frequency_penalty": (-0.7, 0.1, 2),
    "repetition_penalty": (1e-300, 0.7, 1.05, 1.3, 10),
    "logit_bias": ({str(THE): 3, str(FULL_STOP): -100}, {"2": 2.5}),
    "seed": (0, -7, 2**63 - 1),
    "n": (1, 3),
    "stop": (".", [" red", "was", "\n"]),
    "stop_token_ids": ([FULL_STOP, 381], [THE]),
    "ignore_eos": (True,),
    "prompt_logprobs": (0, 3),
    "skip_special_tokens": (False,),
    "include_stop_str_in_output": (True,),
    "return_token_ids": (True,),
    "allowed_token_ids": ([THE, FULL_STOP, *range(270, 420, 3)], [THE]),
    "bad_words": (["big", "red ball", "dog"],),
    "stream": (True,),
    "stream_options": ({"include_usage": True, "continuous_usage_stats": True},),
    "include_hat_stats": (True, "timeline", "rounds"),
    "store": (True, False),
    "add_special_tokens": (True, False),
    "response_format": (
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "ball", "strict": True, "schema": BALL}},
    ),
    "structured_outputs": ({"json": BALL, "whitespace_pattern": " ?"}, {"json_object": True}),
    "guided_json": (BALL,),
    "guided_regex": (r"( [a-z]{2,8}){3}\.",),
    "guided_choice": ([" red ball.", " red car.", " dog"],),
    "guided_grammar": ('root ::= " big " ("red" | "blue") root | " ball."',),
    "guided_whitespace_pattern": (" ?",),
    "grammar": ('root ::= ("red" | "big") " " root | "ball"',),
    "json_schema": (BALL,),
}
FORMATS = (
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "grammar",
    "json_schema",
)
"""Fields of which a request has one."""

IN_CHAT: Mapping[str, tuple[Any, ...]] = {
    "messages": ([{"role": "user", "content": STORY}], [{"role": "user", "content": OTHER}]),
    "max_completion_tokens": (3, 21),
    "logprobs": (True,),
    "top_logprobs": (0, 4),
    "tools": ([GIVE],),
    "tool_choice": ("auto", "none", "required", {"type": "function", "function": {"name": "give"}}),
    "parallel_tool_calls": (False,),
    "add_generation_prompt": (False,),
    "continue_final_message": (True, False),
    "chat_template_kwargs": ({"enable_thinking": False},),
    "reasoning_effort": ("low", "none"),
    "enable_thinking": (True, False),
}
IN_COMPLETIONS: Mapping[str, tuple[Any, ...]] = {
    "prompt": (STORY, OTHER, [1, THE, 400, 428], [STORY, OTHER]),
    "logprobs": (0, 4),
    "echo": (True,),
}
SCORED = {"echo": True, "logprobs": 2}
KINDS = {CHAT: EVERYWHERE | IN_CHAT, COMPLETIONS: EVERYWHERE | IN_COMPLETIONS}


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EveryDrafter]:
    with every_drafter(tmp_path_factory.mktemp("every")) as devices:
        yield devices


def fields_of(kind: type[msgspec.Struct]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(kind)}


def test_every_field_of_a_request_has_a_case_here_and_a_line_in_the_document() -> None:
    assert fields_of(CommonFields) == set(EVERYWHERE)
    assert fields_of(ChatRequest) == set(KINDS[CHAT])
    assert fields_of(CompletionRequest) == set(KINDS[COMPLETIONS])
    requests = DOCUMENT.read_text().partition("| field | values |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in requests.splitlines()[2:]]
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert documented == {*KINDS[CHAT], *KINDS[COMPLETIONS]}


def whole_request(path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with what they need beside them; whatever is left to chance gets a seed."""
    prompt = {"messages": IN_CHAT["messages"][0]} if path == CHAT else {"prompt": STORY}
    body = {"max_tokens": 14, "seed": 11, **prompt, **fields}
    if "stream_options" in body:
        body["stream"] = True
    if path == CHAT and "top_logprobs" in body:
        body["logprobs"] = True
    if body.get("tool_choice"):
        body.setdefault("tools", [GIVE])
    if body.get("tools"):
        # Telling of tools takes most of the context of this model, and a call much of the rest.
        body |= {"messages": [{"role": "user", "content": "Tom"}], "max_tokens": 90}
        for name in ("stream", "stream_options", "max_completion_tokens", "continue_final_message"):
            body.pop(name, None)
    if body.get("continue_final_message"):
        body["messages"] = [*body["messages"], {"role": "assistant", "content": "Tom had"}]
    if body.get("stream"):
        body.pop("prompt_logprobs", None)
    # Beside tools an answer is held to a schema alone.
    num_formats = 0 if body.get("tools") else 1
    for name in [name for name in FORMATS if name in body][num_formats:]:
        del body[name]
    most = body.get("max_completion_tokens") or body["max_tokens"] or 1
    body["min_tokens"] = min(body.get("min_tokens", 0), most)
    return body


def first_difference(one: Told, other: Told) -> int | None:
    """The first place where ids differ although the choice was clear; -1 where it was not."""
    for place, (expected, came) in enumerate(zip(one.ids, other.ids, strict=False)):
        if expected != came:
            return -1 if _is_tie(one, place, came) else place
    return None


def _is_tie(told: Told, place: int, came: int) -> bool:
    """Whether rounding in the last digits of the logits leads to the other choice."""
    request, seed = told.request, told.request.sampling.seed
    text = [*request.prompt_ids, *told.ids[:place]]
    with torch.inference_mode():
        logits = load_reference(STORIES)(torch.tensor([text])).logits[0, -1].numpy()
    sampler = Sampler(request, len(logits), PositionNoise(seed or 0))
    for token in told.ids[:place]:
        sampler.commit(token, logits)
    draws = np.random.default_rng(0).uniform(-1e-4, 1e-4, (200, len(logits)))
    return came in {sampler.choose((logits + draw).astype(np.float32)) for draw in draws}


def same_choice(plain: Told, drafted: Told, is_cut: bool) -> bool:
    """Whether ids and log probabilities are the same; False where the choice was a tie."""
    difference = first_difference(plain, drafted)
    assert difference is None or difference < 0, (difference, plain.ids, drafted.ids)
    if difference is not None:
        return False
    # What ends the reading of a generation from outside, a stop string for one, ends it anywhere.
    assert is_cut or len(plain.ids) == len(drafted.ids)
    for one, other in zip(plain.tokens, drafted.tokens, strict=False):
        if one.logprob is None:
            assert other.logprob is None
            continue
        assert other.logprob == pytest.approx(one.logprob, abs=2e-3)
        values = [[logprob for _, logprob in token.top] for token in (one, other)]
        assert values[0] == pytest.approx(values[1], abs=2e-3)
    return True


def check(devices: EveryDrafter, path: str, fields: Mapping[str, Any]) -> dict[str, Answer]:
    """Ask every device and compare with plain decoding."""
    body = whole_request(path, fields)
    answers = devices.answers(path, body)
    plain = answers["none"]
    is_half = body.get("tools") and (plain.error or {}).get("code") == HALF_CALL
    assert plain.status == 200 or is_half, (body, plain.error)
    for drafter, answer in answers.items():
        assert answer.status == plain.status, (drafter, body, answer.error)
        assert len(answer.told) == len(plain.told)
        pairs = zip(plain.told, answer.told, strict=True)
        # Half a call is an error of the whole request, at which its other choices end as well.
        is_cut = bool("stop" in body or is_half)
        compared = [same_choice(one, other, is_cut) for one, other in pairs]
        if all(compared):
            assert answer.choices == plain.choices, (drafter, body)
            assert answer.num_tokens == plain.num_tokens
    return answers


SINGLE = [
    pytest.param(path, {name: value}, id=f"{path.rsplit('/')[-1]}-{name}-{str(value)[:20]}")
    for path, values in KINDS.items()
    for name in (values if path == COMPLETIONS else IN_CHAT)
    for value in values[name]
]


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize(("path", "fields"), SINGLE)
def test_a_parameter_alone_says_the_same_through_every_drafter(
    devices: EveryDrafter, path: str, fields: Mapping[str, Any], temperature: int
) -> None:
    check(devices, path, {"temperature": temperature, **fields})


def test_a_scored_prompt_says_the_same_through_every_drafter(devices: EveryDrafter) -> None:
    for fields in (
        SCORED,
        {**SCORED, "stream": True},
        {**SCORED, "max_tokens": 0, "min_tokens": 0},
    ):
        for prompt in (STORY, [STORY, OTHER]):
            check(devices, COMPLETIONS, {**fields, "prompt": prompt, "temperature": 0})


@st.composite
def combinations(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A kind of request and some of its fields, each with one of its values."""
    path = draw(st.sampled_from(sorted(KINDS)))
    values = KINDS[path]
    names = draw(st.lists(st.sampled_from(sorted(values)), min_size=2, max_size=8, unique=True))
    return path, {name: draw(st.sampled_from(values[name])) for name in names}


# Eight devices answer each example, with calls of tools in three choices of 90 tokens at most.
@pytest.mark.timeout(1200)
@settings(max_examples=at_most(40), suppress_health_check=list(HealthCheck))
@given(asked=combinations())
@example(
    asked=(
        CHAT,
        {
            "add_generation_prompt": False,
            "presence_penalty": -2,
            "stop_token_ids": [FULL_STOP, 381],
            "n": 3,
            "tool_choice": "required",
        },
    )
)
def test_parameters_together_say_the_same_through_every_drafter(
    devices: EveryDrafter, asked: tuple[str, dict[str, Any]]
) -> None:
    check(devices, *asked)


def test_the_comparison_is_about_drafts_of_several_tokens_under_penalties(
    devices: EveryDrafter,
) -> None:
    draws = random.Random(1)
    num_long: dict[str, int] = {}
    for name in ("presence_penalty", "frequency_penalty", "repetition_penalty"):
        fields = {name: 0.3, "temperature": draws.choice([0, 0.8]), "max_tokens": 40}
        for drafter, answer in check(devices, COMPLETIONS, fields).items():
            [told] = answer.told
            num_long[drafter] = num_long.get(drafter, 0) + sum(told.stats.drafted_by_position[1:])
    assert num_long.pop("none") == 0
    assert min(num_long.values()) > 0, num_long

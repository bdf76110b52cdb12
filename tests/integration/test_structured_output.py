"""Answers held to schemas: valid to another validator, and the unsplit model's under them."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import pytest

from device_runtime.text.tokenizer import load_tokenizer
from tests.support.api_server import COMPLETIONS
from tests.support.every_drafter import Answer, EveryDrafter, every_drafter
from tests.support.masked_reference import Asked, Chosen, MaskedReference
from tests.support.reference import STORIES
from tests.support.schemas import SCHEMAS

PROMPT = (
    "Tom had a big red ball. Tom had a big red car. Tom had a big red ball. "
    "Tom had a big red car. Tom had a big"
)
MAX_TOKENS = 220
PART = (
    "forms extraction, calendar event",
    "forms settings, server",
    "numbers whole odd borders",
    "objects named with quotes",
    "objects required none",
    "references tree",
    "strings pattern semantic version",
    "strings enum of other scripts",
    "unions pydantic, a list by a discriminator",
)
"""What is looked at when nobody has time for all."""
NO_LEAP = '"pattern": "^[^:]+:[^:]+:[0-5]"'
"""What the device adds to times, whose 61st seconds no validator takes."""
TIE_MARGIN = 2e-3
"""Below this distance of its best two scores the reference may round to the other."""


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EveryDrafter]:
    with every_drafter(tmp_path_factory.mktemp("schemas")) as devices:
        yield devices


@pytest.fixture(scope="module")
def reference() -> MaskedReference:
    return MaskedReference(STORIES)


@pytest.fixture(scope="module")
def closing() -> dict[int, float]:
    """A bias for tokens that close texts, lists and objects: a model of stories knows no JSON."""
    tokenizer = load_tokenizer(STORIES)
    said = {token: tokenizer.token_bytes(token) for token in range(512)}
    return {token: 7.0 for token, own in said.items() if own and own.strip()[:1] in b'"]}' and own}


def fits(schema: Mapping[str, Any], text: str) -> None:
    """Raise what is wrong with a text, by a validator that knows nothing of grammars."""
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    kind.check_schema(schema)
    kind(schema, format_checker=kind.FORMAT_CHECKER).validate(json.loads(text))


def same_ids(expected: list[Chosen], came: list[int]) -> bool:
    """Whether all ids are the reference's; False where it could not tell two apart.

    The last rows of an answer that ends early may be gone on the way, so lengths are not looked at.
    """
    for place, (one, other) in enumerate(zip(expected, came, strict=False)):
        if one.token_id != other:
            assert one.margin < TIE_MARGIN, (place, one, other)
            return False
    assert len(expected) == len(came)
    return True


def look_at(
    devices: EveryDrafter,
    reference: MaskedReference,
    bias: Mapping[int, float],
    schema: Mapping[str, Any],
    temperature: float,
) -> dict[str, Answer]:
    """Ask every device; what they say is valid and what the unsplit model says."""
    wanted = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    body = {
        "prompt": PROMPT,
        "max_tokens": MAX_TOKENS,
        "temperature": temperature,
        "seed": 5,
        "logit_bias": {str(token): value for token, value in bias.items()},
        "response_format": wanted,
    }
    answers = devices.answers(COMPLETIONS, body)
    told = answers["none"].told[0]
    same = json.loads(re.sub(r'("format": "(date-)?time")', rf"\1, {NO_LEAP}", json.dumps(schema)))
    asked = Asked(tuple(told.request.prompt_ids), same, MAX_TOKENS, temperature, 5, bias)
    expected = reference.chosen(asked)
    for drafter, answer in answers.items():
        assert answer.status == 200, (drafter, answer.error)
        [(text, reason)] = answer.choices
        same_ids(expected, answer.told[0].ids)
        if reason == "stop":
            fits(schema, text)
    return answers


def test_there_are_300_schemas_that_are_valid_themselves() -> None:
    assert len(SCHEMAS) == 300
    assert len({json.dumps(schema, sort_keys=True) for schema in SCHEMAS.values()}) == 300
    for schema in SCHEMAS.values():
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(schema)


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("name", PART)
def test_an_answer_is_valid_and_the_unsplit_models_with_every_drafter(
    devices: EveryDrafter,
    reference: MaskedReference,
    closing: dict[int, float],
    name: str,
    temperature: float,
) -> None:
    answers = look_at(devices, reference, closing, SCHEMAS[name], temperature)
    assert all(reason == "stop" for each in answers.values() for _, reason in each.choices)


@pytest.mark.exhaustive
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("temperature", [0, 1])
def test_all_300_schemas_are_followed_with_every_drafter(
    devices: EveryDrafter,
    reference: MaskedReference,
    closing: dict[int, float],
    temperature: float,
) -> None:
    unfinished: list[str] = []
    for name, schema in SCHEMAS.items():
        answers = look_at(devices, reference, closing, schema, temperature)
        if any(reason != "stop" for each in answers.values() for _, reason in each.choices):
            unfinished.append(name)
    # Greedy, a model of stories goes on for ever where it may: spaces, digits, items.
    assert len(unfinished) <= len(SCHEMAS) // 6, unfinished


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_schema_takes_no_more_rounds_for_its_tokens_than_plain_text_does(
    devices: EveryDrafter, temperature: float
) -> None:
    schema = SCHEMAS["forms extraction, person"]
    plain = {"prompt": PROMPT, "max_tokens": 60, "temperature": temperature, "seed": 5}
    without = devices.answers(COMPLETIONS, plain)
    held = devices.answers(COMPLETIONS, {**plain, "guided_json": schema})
    for drafter in devices.asked:
        rates = [_tokens_per_round(each[drafter]) for each in (held, without)]
        assert rates[0] >= rates[1], (drafter, rates)


def _tokens_per_round(answer: Answer) -> float:
    [told] = answer.told
    return len(told.ids) / told.stats.num_rounds

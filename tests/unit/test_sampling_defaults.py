"""Sampling when a request says nothing: settings before the model's file before OpenAI."""

import logging
from typing import Any

import pytest

from device_runtime.api.request.sampling import SamplingDefaults, sampling_defaults
from tests.support.api_server import (
    CHAT,
    COMPLETIONS,
    USER,
    story_generator,
    story_server,
)

QWEN3 = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "do_sample": True, "max_new_tokens": 9}


def test_a_file_without_values_leaves_openais() -> None:
    assert sampling_defaults({}, ()) == SamplingDefaults(1.0, 1.0, 0, 0.0, 1.0)
    assert sampling_defaults({"temperature": None, "do_sample": False}, ()) == SamplingDefaults()


def test_the_models_values_are_taken_and_settings_win_over_them() -> None:
    came = sampling_defaults(QWEN3, ("temperature=0.2", "min_p=0.1"))
    assert (came.temperature, came.top_p, came.top_k, came.min_p) == (0.2, 0.95, 20, 0.1)
    assert came.sources == {
        "temperature": "--sampling-defaults",
        "top_p": "generation_config.json",
        "top_k": "generation_config.json",
        "min_p": "--sampling-defaults",
    }
    line = came.described()
    assert "temperature 0.2, min_p 0.1 (--sampling-defaults)" in line
    assert "top_p 0.95, top_k 20 (generation_config.json)" in line


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 3.0),
        ("temperature", -0.1),
        ("temperature", "hot"),
        ("temperature", True),
        ("temperature", [0.6]),
        ("temperature", float("nan")),
        ("top_p", 1.5),
        ("top_k", 2.5),
        ("top_k", -7),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("repetition_penalty", 1e9),
    ],
)
def test_a_value_out_of_range_is_left_out_by_its_name(
    field: str, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        came = sampling_defaults({**QWEN3, "repetition_penalty": 1.05, field: value}, ())
    assert getattr(came, field) == getattr(SamplingDefaults(), field)
    assert field not in came.sources
    assert len(came.sources) >= 3
    assert f"generation_config.json: {field} is not used: " in caplog.text


def test_whole_floats_and_off_values_are_what_they_mean() -> None:
    came = sampling_defaults({"top_k": 20.0, "temperature": 1}, ("top_k=-1",))
    assert came.top_k == 0
    assert sampling_defaults({"top_k": 20.0}, ()).top_k == 20


@pytest.mark.parametrize(
    "text", ["", "temperature", "temperature=hot", "temp=1", "top_p=2", "temperature=nan", "seed=1"]
)
def test_a_setting_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected"):
        sampling_defaults({}, (text,))


@pytest.mark.parametrize(
    ("path", "prompt"), [(CHAT, {"messages": USER}), (COMPLETIONS, {"prompt": "Once"})]
)
async def test_requests_win_field_by_field(path: str, prompt: dict[str, Any]) -> None:
    defaults = sampling_defaults({**QWEN3, "repetition_penalty": 1.05}, ())
    generator = story_generator()

    async with story_server(generator, sampling=defaults) as (client, _):
        await client.post(path, prompt)
        await client.post(path, {**prompt, "temperature": 0, "top_k": -1, "repetition_penalty": 1})
    quiet, loud = (request.sampling for request in generator.requests)
    assert (quiet.temperature, quiet.top_p, quiet.top_k) == (0.6, 0.95, 20)
    assert quiet.repetition_penalty == 1.05
    assert (loud.temperature, loud.top_p, loud.top_k, loud.repetition_penalty) == (0, 0.95, 0, 1)


async def test_models_show_every_default_and_where_it_is_from() -> None:
    async with (
        story_server(sampling=sampling_defaults(QWEN3, ())) as (client, _),
        client.http.get(f"{client.url}/v1/models") as response,
    ):
        came = (await response.json())["data"][0]["sampling_defaults"]
    assert came["temperature"] == {"value": 0.6, "source": "generation_config.json"}
    assert came["min_p"] == {"value": 0.0, "source": "OpenAI's default"}
    assert set(came) == {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"}

"""Conversations as clients send them, and what a model's template makes of them here."""

import asyncio
import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from device_runtime.api.errors import ApiError
from device_runtime.api.job.plan import encoded_chat
from device_runtime.api.request.body import ChatRequest, decode_request
from device_runtime.api.request.tool_fields import offer_of
from device_runtime.calling.layouts import Layout
from device_runtime.calling.probing import Telling, find_calls
from device_runtime.text.chat_template import ChatTemplate

Body = Mapping[str, Any]
"""Of a request, but for one thing: arguments of calls are objects, not yet JSON as a text."""


@dataclass(frozen=True)
class Refused:
    """There is no text; two refusals are the same."""

    reason: str


Outcome = str | Refused
"""What becomes of a conversation."""


@dataclass(frozen=True)
class Known:
    """A template, and how hat found that it reads messages and calls."""

    template: ChatTemplate
    layout: Layout
    telling: Telling


def known_template(template: ChatTemplate) -> Known:
    """The template, and how a device would find that it is to be told of calls."""
    return Known(template, *find_calls(template))


class _AtOnce:
    """A `TextWork` without threads."""

    async def render(self, work: Callable[[], Any]) -> Any:
        return work()

    async def tokenize(self, _: int, work: Callable[[], Any]) -> Any:
        return work()


def ours(known: Known, body: Body) -> Outcome:
    """What `hat device` gives the model."""
    service: Any = SimpleNamespace(
        template=known.template,
        call_layout=known.layout,
        telling=known.telling,
        control_tokens=None,
        text_work=_AtOnce(),
        tokenizer=SimpleNamespace(encode=lambda text, _: [0]),
        generator=SimpleNamespace(max_context_tokens=1 << 20),
    )
    try:
        request = decode_request(json.dumps(_as_sent(body)).encode(), ChatRequest)
        return asyncio.run(encoded_chat(service, request, offer_of(request))).text
    except ApiError as error:
        return Refused(str(error))


def _as_sent(body: Body) -> dict[str, Any]:
    """Arguments of calls are a text in OpenAI's API."""
    sent = copy.deepcopy(dict(body))
    for message in sent["messages"]:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return sent

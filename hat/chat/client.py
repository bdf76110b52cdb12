"""A streaming client of an OpenAI-compatible endpoint."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from hat.chat.stats import AnswerStats, stats_of
from process.addresses import without_user
from process.errors import UserError, system_reason

_MODELS_TIMEOUT = aiohttp.ClientTimeout(total=30)
_ANSWER_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=10, sock_read=900)
"""The silence is longer than any prompt is worked on before its first token."""

_MAX_ERROR_BYTES = 1 << 16

_STATS_WANTED = {"stream_options": {"include_usage": True}, "include_hat_stats": True}


class EndpointError(UserError):
    """The endpoint cannot be reached, refused a request, or broke off an answer."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of an answer; the last ones say why it ended, and if hat answers what it took."""

    text: str
    finish_reason: str | None = None
    stats: AnswerStats | None = None
    is_drafted: bool = False
    """The draft model says it alone, since there is no cloud."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to ask, up to /v1, and the key to show if it wants one."""

    url: str
    api_key: str | None = field(default=None, repr=False)

    async def first_model(self) -> str:
        """The first model that the endpoint lists.

        Raises:
            EndpointError: no answer, or none that lists models.
        """
        try:
            async with self._asked("GET", "models", _MODELS_TIMEOUT) as response:
                return str((await response.json())["data"][0]["id"])
        except (ValueError, LookupError, TypeError) as error:
            raise EndpointError(
                f"{without_user(self._url('models'))} does not list a model"
            ) from error

    async def answer(self, request: Mapping[str, Any]) -> AsyncGenerator[Piece]:
        """The answer's text as it comes. Closing the iterator ends the generation.

        Raises:
            EndpointError: before the first piece or in between.
        """
        body = {**request, "stream": True, **_STATS_WANTED}
        async with self._asked("POST", "chat/completions", _ANSWER_TIMEOUT, body) as response:
            async for event in _events(response):
                yield _piece(event)

    def _url(self, path: str) -> str:
        return f"{self.url.rstrip('/')}/{path}"

    @asynccontextmanager
    async def _asked(
        self, method: str, path: str, patience: aiohttp.ClientTimeout, body: object = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        try:
            async with (
                aiohttp.ClientSession(headers=headers, timeout=patience) as http,
                http.request(method, self._url(path), json=body) as response,
            ):
                await _require_success(response)
                yield response
        except aiohttp.ClientConnectorError as error:
            reason = system_reason(error.os_error)
            raise EndpointError(
                f"no endpoint at {without_user(self.url)}: {reason}; `hat up` starts one"
            ) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            how = "is silent" if isinstance(error, TimeoutError) else "broke off the connection"
            raise EndpointError(f"no answer from {without_user(self.url)}: it {how}") from error


async def _require_success(response: aiohttp.ClientResponse) -> None:
    if response.status == 200:
        return
    body = await response.content.read(_MAX_ERROR_BYTES)
    hint = "; does the URL end in /v1?" if response.status == 404 else ""
    raise EndpointError(f"{response.status} {_error_message(body)}{hint}")


def _error_message(body: bytes) -> str:
    """The message in an error envelope, or the beginning of whatever else came."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return body[:200].decode(errors="replace").strip() or "without a reason"


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The data of each server-sent event up to [DONE].

    Source: WHATWG HTML, "Server-sent events"; OpenAI ends a stream with the data `[DONE]`.
    """
    try:
        async for line in response.content:
            if line.startswith(b"data:"):
                data = line.removeprefix(b"data:").strip()
                if data == b"[DONE]":
                    return
                yield data
    except ValueError as error:
        raise EndpointError("the endpoint sent a line that is too long") from error
    raise EndpointError("the endpoint broke off the answer")


def _piece(event: bytes) -> Piece:
    try:
        chunk: dict[str, Any] = json.loads(event)
        if "error" in chunk:
            raise EndpointError(_error_message(event))
        if not chunk["choices"]:
            return Piece("", stats=stats_of(chunk))
        choice = chunk["choices"][0]
        is_drafted = (chunk.get("hat") or {}).get("answered_by") == "draft"
        text = choice["delta"].get("content") or ""
        return Piece(text, choice.get("finish_reason"), is_drafted=is_drafted)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise EndpointError("the endpoint sent an event that is not a chat chunk") from error

"""A streaming client of an OpenAI-compatible endpoint."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from process.errors import UserError, system_reason

_CONNECT_TIMEOUT_S = 10.0
_SILENCE_S = 900.0
"""Longer than any prompt is worked on before its first token."""

_MODELS_TIMEOUT_S = 30.0
_MAX_ERROR_BYTES = 1 << 16

Message = dict[str, str]
"""One turn of a conversation: its role and its content."""


class EndpointError(UserError):
    """The endpoint cannot be reached, refused a request, or broke off an answer."""


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """Where to ask and how. `sampling` holds request fields such as temperature."""

    url: str
    model: str | None = None
    api_key: str | None = None
    sampling: Mapping[str, float | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of an answer; the last piece says why the answer ended."""

    text: str
    finish_reason: str | None = None


class ChatClient:
    """One endpoint; made inside a running event loop."""

    def __init__(self, options: ChatOptions) -> None:
        self._options = options
        headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
        timeout = aiohttp.ClientTimeout(None, connect=_CONNECT_TIMEOUT_S, sock_read=_SILENCE_S)
        self._http = aiohttp.ClientSession(headers=headers, timeout=timeout)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    async def model(self) -> str:
        """The model to ask: the one named, else the first the endpoint lists.

        Raises:
            EndpointError: no answer, or none that lists models.
        """
        if self._options.model is not None:
            return self._options.model
        timeout = aiohttp.ClientTimeout(total=_MODELS_TIMEOUT_S)
        try:
            async with self._http.get(self._url("models"), timeout=timeout) as response:
                await _require_success(response)
                return str((await response.json())["data"][0]["id"])
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(error) from error
        except (ValueError, LookupError, TypeError) as error:
            raise EndpointError(f"{self._url('models')} does not list a model") from error

    async def answer(self, model: str, messages: list[Message]) -> AsyncGenerator[Piece]:
        """The answer's text as it comes. Closing the iterator ends the generation.

        Raises:
            EndpointError: before the first piece or in between.
        """
        body = {**self._options.sampling, "model": model, "messages": messages, "stream": True}
        try:
            async with self._http.post(self._url("chat/completions"), json=body) as response:
                await _require_success(response)
                async for event in _events(response):
                    yield _piece(event)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(error) from error

    def _url(self, path: str) -> str:
        return f"{self._options.url.rstrip('/')}/{path}"

    def _unreachable(self, error: Exception) -> EndpointError:
        url = self._options.url
        if isinstance(error, aiohttp.ClientConnectorError):
            reason = system_reason(error.os_error)
            return EndpointError(f"no endpoint at {url}: {reason}; `hat up` starts one")
        how = "is silent" if isinstance(error, TimeoutError) else "broke off the connection"
        return EndpointError(f"no answer from {url}: it {how}")


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
            return Piece("")
        choice = chunk["choices"][0]
        return Piece(choice["delta"].get("content") or "", choice.get("finish_reason"))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise EndpointError("the endpoint sent an event that is not a chat chunk") from error

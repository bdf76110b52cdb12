"""POST /tokenize and /detokenize, as vLLM has them."""

from typing import TypedDict

from aiohttp import hdrs, web

from device_runtime.api.answer.sending import json_response
from device_runtime.api.description.table import JSON, MODEL_ERRORS, Api, Route
from device_runtime.api.errors import invalid
from device_runtime.api.job.prompts import encode_chat, encode_texts, opening_of
from device_runtime.api.request.body import DetokenizeRequest, TokenizeRequest, read_request
from device_runtime.api.request.tool_fields import plain_tools
from device_runtime.api.service import SERVICE, Service


class Tokenized(TypedDict):
    """The token ids of a text, and what each stands for if that was asked."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Detokenized(TypedDict):
    """The text of token ids."""

    prompt: str


async def tokenize(request: web.Request) -> web.Response:
    """The token ids of a text, or of a conversation as its template renders it."""
    service = request.app[SERVICE]
    fields = await read_request(request, TokenizeRequest, service.timing.read_s)
    service.model.check(fields.model)
    ids = await _encode(service, fields)
    texts = await _texts(service, ids) if fields.return_token_strs else None
    return json_response(
        {
            "count": len(ids),
            "max_model_len": service.generator.max_context_tokens,
            "tokens": ids,
            "token_strs": texts,
        }
    )


async def detokenize(request: web.Request) -> web.Response:
    """The text of token ids, special ones by their names."""
    service = request.app[SERVICE]
    fields = await read_request(request, DetokenizeRequest, service.timing.read_s)
    service.model.check(fields.model)
    tokenizer = service.tokenizer
    text = await service.text_work.tokenize(
        len(fields.tokens), lambda: tokenizer.decode(fields.tokens, skip_special_tokens=False)
    )
    return json_response({"prompt": text})


async def _encode(service: Service, fields: TokenizeRequest) -> list[int]:
    if (fields.prompt is None) == (fields.messages is None):
        raise invalid("prompt", "expected either prompt or messages")
    if fields.prompt is not None:
        add_special_tokens = fields.add_special_tokens is not False
        [ids] = await encode_texts(service, [fields.prompt], add_special_tokens, "prompt")
        return ids
    chat = await encode_chat(
        service,
        fields.messages or [],
        opening=opening_of(fields),
        add_special_tokens=fields.add_special_tokens,
        variables=fields.chat_template_kwargs or {},
        tools=plain_tools(fields),
    )
    return chat.ids


async def _texts(service: Service, ids: list[int]) -> list[str]:
    """What each token stands for; a part of a character is a replacement character."""
    token_bytes = service.tokenizer.token_bytes

    def texts() -> list[str]:
        return [token_bytes(token_id).decode(errors="replace") for token_id in ids]

    return await service.text_work.tokenize(len(ids), texts)


API = Api(
    "tokens",
    (
        Route(
            hdrs.METH_POST,
            "/tokenize",
            tokenize,
            {JSON: Tokenized},
            TokenizeRequest,
            (*MODEL_ERRORS, 503),
        ),
        Route(
            hdrs.METH_POST,
            "/detokenize",
            detokenize,
            {JSON: Detokenized},
            DetokenizeRequest,
            (*MODEL_ERRORS, 503),
        ),
    ),
)

"""POST /tokenize and /detokenize, as vLLM has them."""

import asyncio

from aiohttp import web

from device_runtime.api.answering import json_response, read_request
from device_runtime.api.errors import invalid
from device_runtime.api.parameters import check_model
from device_runtime.api.prompts import ChatOptions, decode_ids, encode_chat, encode_text
from device_runtime.api.requests import DetokenizeRequest, TokenizeRequest
from device_runtime.api.service import SERVICE, Service


async def tokenize(request: web.Request) -> web.Response:
    """The token ids of a text, or of a conversation as its template renders it."""
    service = request.app[SERVICE]
    fields = await read_request(request, TokenizeRequest)
    check_model(fields.model, service.model)
    ids = await _encode(service, fields)
    texts = await asyncio.to_thread(_texts, service, ids) if fields.return_token_strs else None
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
    fields = await read_request(request, DetokenizeRequest)
    check_model(fields.model, service.model)
    text = await decode_ids(service.tokenizer, fields.tokens, skip_special_tokens=False)
    return json_response({"prompt": text})


async def _encode(service: Service, fields: TokenizeRequest) -> list[int]:
    if (fields.prompt is None) == (fields.messages is None):
        raise invalid("prompt", "expected either prompt or messages")
    if fields.prompt is not None:
        add_special_tokens = fields.add_special_tokens is not False
        return await encode_text(service.tokenizer, fields.prompt, add_special_tokens)
    options = ChatOptions(
        add_generation_prompt=fields.add_generation_prompt is not False,
        add_special_tokens=fields.add_special_tokens,
        variables=fields.chat_template_kwargs or {},
    )
    messages = fields.messages or []
    return await encode_chat(service.tokenizer, service.template, messages, options)


def _texts(service: Service, ids: list[int]) -> list[str]:
    token_bytes = service.tokenizer.token_bytes
    return [token_bytes(token_id).decode(errors="replace") for token_id in ids]

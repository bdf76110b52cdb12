"""The grammar of an answer, compiled in a thread."""

from functools import partial

from device_runtime.api.errors import invalid
from device_runtime.api.request.formats import FormatFields, wanted_of
from device_runtime.api.service import Service
from device_runtime.calling.grammar import arguments_schema, call_grammar
from device_runtime.calling.tools import Offer
from device_runtime.generation.grammar import Grammar, GrammarError
from device_runtime.grammar.wanted import Json, Lark, Wanted


async def compiled(service: Service, fields: FormatFields, offer: Offer | None) -> Grammar | None:
    """What a request wants its answers held to; None: nothing.

    With tools an answer that calls none of them is held to the format.

    Raises:
        ApiError: 400, a grammar that cannot be compiled; it says where.
        OverloadedError: too many grammars wait already.
    """
    found = wanted_of(fields)
    if offer is None:
        return None if found is None else await _one(service, *found)
    for tool in offer.callable:
        await _one(service, tool.where, Json(arguments_schema(tool)))
    schema = None
    if found is not None:
        param, wanted = found
        if not isinstance(wanted, Json):
            message = f"{param}: beside tools an answer can be held to a JSON schema only"
            raise invalid(param, message)
        await _one(service, param, wanted)
        schema = wanted.schema
    text = call_grammar(service.call_layout, offer, service.tokenizer.special_ids, schema)
    return await _one(service, "tools", Lark(text))


async def _one(service: Service, param: str, wanted: Wanted) -> Grammar:
    try:
        return await service.text_work.compile(partial(service.grammars.compile, wanted))
    except GrammarError as error:
        raise invalid(param, f"{param}: {error.reason}", code="invalid_grammar") from error

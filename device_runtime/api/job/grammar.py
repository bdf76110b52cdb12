"""The grammar of an answer, compiled in a thread."""

from functools import partial

from device_runtime.api.errors import invalid
from device_runtime.api.request.formats import FormatFields, wanted_of
from device_runtime.api.service import Service
from device_runtime.generation.grammar import Grammar, GrammarError


async def compiled(service: Service, fields: FormatFields) -> Grammar | None:
    """What a request wants its answers held to; None: nothing.

    Raises:
        ApiError: 400, a grammar that cannot be compiled; it says where.
        OverloadedError: too many grammars wait already.
    """
    found = wanted_of(fields)
    if found is None:
        return None
    param, wanted = found
    try:
        return await service.text_work.compile(partial(service.grammars.compile, wanted))
    except GrammarError as error:
        raise invalid(param, f"{param}: {error.reason}", code="invalid_grammar") from error

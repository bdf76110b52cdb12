"""The grammar of an answer, compiled in a thread."""

from functools import partial

from device_runtime.api.errors import ApiError, invalid
from device_runtime.api.job.prompts import EncodedChat
from device_runtime.api.request.formats import FormatFields, wanted_of
from device_runtime.api.service import Service
from device_runtime.calling.grammar import arguments_schema, call_grammar
from device_runtime.calling.tools import Offer
from device_runtime.generation.grammar import Grammar, GrammarError
from device_runtime.grammar.wanted import Json, Lark, Thoughts, Wanted
from device_runtime.thinking.marks import Marks, has_thought, is_thinking


async def compiled(
    service: Service, fields: FormatFields, offer: Offer | None, chat: EncodedChat | None
) -> Grammar | None:
    """What a request wants its answers held to; None: nothing.

    With tools an answer that calls none of them is held to the format. A model that thinks may do
    so before, unless the prompt has ended its thoughts already.

    Raises:
        ApiError: 400, a grammar that cannot be compiled; it says where.
        OverloadedError: too many grammars wait already.
    """
    found = wanted_of(fields)
    # A text to be continued has none: nobody has told the model to think.
    thoughts = None if chat is None else _thoughts(service.thought_marks, chat)
    if offer is None:
        return None if found is None else await _one(service, *found, thoughts)
    schema = None
    if found is not None:
        param, wanted = found
        if not isinstance(wanted, Json):
            message = f"{param}: beside tools an answer can be held to a JSON schema only"
            raise invalid(param, message)
        await _one(service, param, wanted)
        schema = wanted.schema
    special_ids = service.tokenizer.special_ids
    try:
        text = call_grammar(service.call_layout, offer, special_ids, schema)
    except GrammarError as error:
        raise invalid("tools", error.reason, code="invalid_grammar") from error
    try:
        return await _one(service, "tools", Lark(text), thoughts)
    except ApiError:
        # Which of them is at fault is looked for only then: there may be hundreds.
        for tool in offer.callable:
            arguments = Json(arguments_schema(tool), is_lenient=not tool.is_strict)
            await _one(service, tool.where, arguments)
        raise


def _thoughts(marks: Marks | None, chat: EncodedChat) -> Thoughts | None:
    if marks is None or has_thought(marks, chat.text, chat.begun):
        return None
    begin = None if is_thinking(marks, chat.text, chat.begun) else marks.begin
    return Thoughts(begin, marks.end)


async def _one(
    service: Service, param: str, wanted: Wanted, thoughts: Thoughts | None = None
) -> Grammar:
    try:
        compile_ = partial(service.grammars.compile, wanted, thoughts)
        return await service.text_work.compile(compile_)
    except GrammarError as error:
        raise invalid(param, f"{param}: {error.reason}", code="invalid_grammar") from error

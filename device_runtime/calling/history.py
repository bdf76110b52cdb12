"""Calls of earlier answers as a chat template wants them."""

import json
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from device_runtime.calling.layouts import OWN_ID, Layout
from device_runtime.calling.probing import ArgumentsForm

Message = Mapping[str, Any]


def for_template(
    messages: Sequence[Message], layout: Layout, form: ArgumentsForm
) -> list[dict[str, Any]]:
    """The conversation with its calls in the template's form.

    A model whose ids have nine characters gets such of all calls, also of those that another
    server made: its template refuses others.
    """
    return [_for_template(message, layout, form) for message in messages]


def _for_template(message: Message, layout: Layout, form: ArgumentsForm) -> dict[str, Any]:
    plain = dict(message)
    if "tool_call_id" in plain:
        plain["tool_call_id"] = _fitting(plain["tool_call_id"], layout)
    if "tool_calls" in plain:
        plain["tool_calls"] = [_call(call, layout, form) for call in plain["tool_calls"]]
    return plain


def _call(call: Mapping[str, Any], layout: Layout, form: ArgumentsForm) -> dict[str, Any]:
    function = call["function"]
    if form == "text":
        arguments = json.dumps(function["arguments"], ensure_ascii=False)
        function = {**function, "arguments": arguments}
    return {**call, "id": _fitting(call["id"], layout), "function": function}


def _fitting(given: str, layout: Layout) -> str:
    if layout.id_prefix or re.fullmatch(OWN_ID, given):
        return given
    return blake2b(given.encode(), digest_size=16).hexdigest()[: layout.id_digits]

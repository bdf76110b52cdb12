"""Whether conversations become the text that transformers makes of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from device_runtime.text.chat_template import ChatTemplate, ChatTemplateError
from device_runtime.text.content_forms import in_form
from hat.verify.reference import template_of_processor, tokenizer_place
from hat.verify.report import Check

_SYSTEM = {"role": "system", "content": "You are terse."}
_USER = {"role": "user", "content": "How do I kill a process?"}
_ASSISTANT = {"role": "assistant", "content": "With `kill`."}
_CONVERSATIONS = (
    (_USER,),
    (_SYSTEM, _USER),
    (_USER, _ASSISTANT, _USER),
    (_SYSTEM, _USER, _ASSISTANT, {"role": "user", "content": " And, 你好, <b>how</b>?\n"}),
)


def template_check(model: Path, template: ChatTemplate) -> Check:
    """Our rendering of some conversations beside `apply_chat_template` of the checkpoint.

    What both refuse is the same. A model without a template has none here as well.
    """
    tokenizer = AutoTokenizer.from_pretrained(**tokenizer_place(model))
    if tokenizer.chat_template is None:
        tokenizer.chat_template = template_of_processor(model)
    if tokenizer.chat_template is None and template.is_plain:
        return Check("template", "ok", "the model has none: messages are lines")
    if tokenizer.chat_template is None or template.is_plain:
        who = "unsplit" if template.is_plain else "split"
        return Check("template", "FAILED", f"only the {who} model has a chat template")
    different = []
    for number, conversation in enumerate(_CONVERSATIONS, 1):
        roles = ", ".join(message["role"] for message in conversation)
        if _theirs(tokenizer, template, conversation) != _ours(template, conversation):
            different.append(f"conversation {number} ({roles}) becomes another text")
    if different:
        return Check("template", "FAILED", "conversations become other texts", tuple(different))
    line = f"{len(_CONVERSATIONS)} conversations become the text that transformers makes of them"
    return Check("template", "ok", line)


def _ours(template: ChatTemplate, conversation: Sequence[Mapping[str, Any]]) -> str | None:
    try:
        return template.render(conversation).text
    except ChatTemplateError:
        return None


def _theirs(
    tokenizer: Any, template: ChatTemplate, conversation: Sequence[Mapping[str, Any]]
) -> str | None:
    shaped = [in_form(m, template.forms.get(m["role"], "text")) for m in conversation]
    # A template raises whatever it does.
    try:
        text: str = tokenizer.apply_chat_template(
            shaped, tokenize=False, add_generation_prompt=True
        )
    except Exception:
        return None
    return text

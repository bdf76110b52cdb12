"""Fields that would change the meaning of an answer and are not supported: refused by name.

A field is let through with the value that means "as if it were not there", alone or by what
another field says.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from device_runtime.api.errors import unsupported

# The values listed are neutral; null always is. Other inputs than text, other algorithms than
# sampling, and other outputs than the text and its log probabilities.
_IN_BOTH: Mapping[str, tuple[Any, ...]] = {
    "logits_processors": ([],),
    "best_of": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "typical_p": (1,),
    "tfs_z": (1,),
    "top_a": (0,),
    "mirostat": (0,),
    "xtc_probability": (0,),
    "dry_multiplier": (0,),
    "prompt_embeds": (),
    "truncate_prompt_tokens": (),
    "return_tokens_as_token_ids": (False,),
}
_IN_CHAT: Mapping[str, tuple[Any, ...]] = {
    "functions": ([],),
    "function_call": ("none",),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "documents": ([],),
    "chat_template": (),
    "echo": (False,),
}
_IN_COMPLETIONS: Mapping[str, tuple[Any, ...]] = {"suffix": ("",)}

_NEUTRAL_BESIDE: Mapping[str, Callable[[Any, Mapping[str, msgspec.Raw]], bool]] = {
    "best_of": lambda value, fields: bool(value == _value(fields, "n")),
    "functions": lambda _, fields: _value(fields, "function_call") == "none",
    "function_call": lambda value, fields: value == "auto" and not _value(fields, "functions"),
}
"""What a field may say because of its parts or of another field: tools that none may be called."""


def check_refused(fields: Mapping[str, msgspec.Raw], is_chat: bool) -> None:
    """Look through the fields of a request, in the order they came.

    Raises:
        ApiError: 400 `unsupported_parameter`, naming the first such field.
    """
    refused = {**_IN_BOTH, **(_IN_CHAT if is_chat else _IN_COMPLETIONS)}
    for name in fields:
        if name not in refused:
            continue
        value, neutral = _value(fields, name), refused[name]
        if value is None or value in neutral:
            continue
        is_neutral = _NEUTRAL_BESIDE.get(name)
        if is_neutral is None or not is_neutral(value, fields):
            raise unsupported(name, f"{name} is not supported here{_instead(neutral)}")


def _value(fields: Mapping[str, msgspec.Raw], name: str) -> Any:
    if name not in fields:
        return None
    try:
        return msgspec.json.decode(fields[name])
    except msgspec.ValidationError as error:
        raise msgspec.ValidationError(f"{error} - at `$.{name}`") from error


def _instead(neutral: tuple[Any, ...]) -> str:
    if not neutral:
        return "; leave it out"
    return f"; leave it out or send {msgspec.json.encode(neutral[0]).decode()}"

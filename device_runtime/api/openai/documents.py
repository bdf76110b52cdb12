"""Whole answers by kind, for the description: `Answer` is all of them."""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from device_runtime.api.figures import HatFigures
from device_runtime.api.openai.messages import ChatChoice, CompletionChoice, Usage


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    hat: HatFigures | UnsetType = UNSET


class TextCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to texts."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage
    hat: HatFigures | UnsetType = UNSET

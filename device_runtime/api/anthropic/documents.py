"""What is answered, for the description. Blocks have fields of their own by their type."""

from typing import Any, Literal, NotRequired, TypedDict


class AnthropicErrorDetails(TypedDict):
    """What went wrong."""

    type: str
    message: str


class AnthropicError(TypedDict):
    """A refusal."""

    type: Literal["error"]
    error: AnthropicErrorDetails


class AnswerBlock(TypedDict):
    """Words, thoughts, or a call of a tool."""

    type: Literal["text", "thinking", "tool_use"]


class MessageUsage(TypedDict):
    """Tokens; those that were cached are counted apart."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: NotRequired[dict[str, int]]


class MessageDocument(TypedDict):
    """The answer to a conversation."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[AnswerBlock]
    stop_reason: Literal[
        "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
    ]
    stop_sequence: str | None
    usage: MessageUsage
    hat: NotRequired[dict[str, Any]]


class CountedTokens(TypedDict):
    """How long a conversation is."""

    input_tokens: int

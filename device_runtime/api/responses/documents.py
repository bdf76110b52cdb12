"""What is answered, for the description. Items have fields of their own by their type."""

from typing import Any, Literal, NotRequired, TypedDict


class OutputItem(TypedDict):
    """A message, a call of a function, or thoughts."""

    id: str
    type: Literal["message", "function_call", "reasoning"]
    status: Literal["in_progress", "completed", "incomplete"]


class ResponseUsage(TypedDict):
    """Tokens."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class Response(TypedDict):
    """The answer to some items."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    temperature: float
    top_p: float
    usage: ResponseUsage | None
    hat: NotRequired[dict[str, Any]]


class DeletedResponse(TypedDict):
    """A response that is forgotten."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputTokens(TypedDict):
    """How long a conversation is for the model."""

    object: Literal["response.input_tokens"]
    input_tokens: int

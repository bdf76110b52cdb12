"""What clients of Anthropic's API send."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from device_runtime.api.request.body import MAX_MESSAGES, MAX_PARTS
from device_runtime.api.request.tool_fields import MAX_TOOLS


class Block(Struct, frozen=True):
    """A part of a message: text, a call of a tool, its result, or thoughts."""

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None
    tool_use_id: str | None = None
    content: Any = None
    is_error: bool | None = None
    thinking: str | None = None


Blocks = Annotated[list[Block], Meta(max_length=MAX_PARTS)]


class Turn(Struct, frozen=True):
    """An entry of `messages`."""

    role: Annotated[str, Meta(extra_json_schema={"enum": ["user", "assistant", "system"]})]
    content: str | Blocks


class ToolOffer(Struct, frozen=True):
    """An entry of `tools`. Those that only Anthropic's models know have a `type` and no schema."""

    name: str | None = None
    description: str | None = None
    input_schema: Any = None
    type: str | None = None
    strict: bool | None = None


class ToolChoice(Struct, frozen=True):
    """Whether tools must be called."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct, frozen=True):
    """Whether the model is to think; how much it does is its own affair."""

    type: str


class OutputFormat(Struct, frozen=True):
    """What the answer is to be: JSON of a schema."""

    type: str
    schema: Any = None


class OutputConfig(Struct, frozen=True):
    """How much effort the answer is worth, and what it is to be."""

    effort: str | None = None
    format: OutputFormat | None = None


class CountRequest(Struct, frozen=True, kw_only=True):
    """The body of POST /v1/messages/count_tokens."""

    model: str | None = None
    messages: Annotated[list[Turn], Meta(min_length=1, max_length=MAX_MESSAGES)]
    system: str | Blocks | None = None
    tools: Annotated[list[ToolOffer], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    """As it was called before `output_config`."""
    mcp_servers: Any = None


class MessagesRequest(CountRequest, frozen=True, kw_only=True):
    """The body of POST /v1/messages."""

    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    stop_sequences: list[Annotated[str, Meta(min_length=1)]] | None = None
    stream: bool | None = None
    include_hat_stats: bool | None = None

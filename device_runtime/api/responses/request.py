"""What clients of the Responses API send: types and ranges of the fields that are understood."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from device_runtime.api.errors import invalid, unsupported
from device_runtime.api.request.body import (
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_TEMPLATE_VARIABLES,
    MAX_TOP_LOGPROBS,
    StreamOptions,
)
from device_runtime.api.request.json_body import check_depth
from device_runtime.api.request.tool_fields import MAX_TOOLS

_NumTokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]


class Content(Struct, frozen=True):
    """A part of an item: text of either side, or a refusal."""

    type: str
    text: str | None = None
    refusal: str | None = None


_Contents = Annotated[list[Content], Meta(max_length=MAX_PARTS)]


class Item(Struct, frozen=True):
    """Something that was said, called or thought, or a call's result.

    A message may leave its type out, and so may a reference to an item that is kept here.
    """

    type: str | None = None
    role: str | None = None
    content: str | _Contents | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: Any = None
    summary: Any = None

    @property
    def kind(self) -> str:
        """Its type, also where that is left out."""
        if self.type is not None:
            return self.type
        return "item_reference" if self.id is not None and self.role is None else "message"


class ToolOffer(Struct, frozen=True):
    """An entry of `tools`."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: Any = None
    strict: bool | None = None


class TextFormat(Struct, frozen=True, omit_defaults=True):
    """What the answer is held to."""

    type: str
    name: str | None = None
    description: str | None = None
    schema: Any = None
    strict: bool | None = None


class TextOptions(Struct, frozen=True):
    """`text`; how many words the answer makes is its own affair."""

    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(Struct, frozen=True):
    """How much the model is to think."""

    effort: str | None = None
    summary: str | None = None


Items = Annotated[list[Item], Meta(max_length=MAX_MESSAGES)]


LOGPROBS = "message.output_text.logprobs"
"""The value of `include` that asks for log probabilities."""


class ResponsesRequest(Struct, frozen=True, kw_only=True):
    """The body of POST /v1/responses."""

    input: str | Items | None = None
    model: str | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: _NumTokens | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    # As in chat, beside what OpenAI has.
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0.0, le=10.0)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    chat_template_kwargs: (
        Annotated[dict[str, Any], Meta(max_length=MAX_TEMPLATE_VARIABLES)] | None
    ) = None
    tools: Annotated[list[ToolOffer], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Any = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = None
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None
    metadata: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    include_hat_stats: bool | Literal["timeline", "rounds"] | None = None

    @property
    def wants_logprobs(self) -> bool:
        """Whether words come with log probabilities."""
        return bool(self.top_logprobs) or LOGPROBS in (self.include or ())


def check_supported(request: ResponsesRequest) -> None:
    """Look for what would change the meaning of the answer, and is not there.

    Raises:
        ApiError: 400, naming the field.
    """
    for name, instead in (
        ("conversation", "send input, or previous_response_id"),
        ("prompt", "there are no stored prompts; send instructions and input"),
    ):
        if getattr(request, name) is not None:
            raise unsupported(name, f"{name} is not supported here; {instead}")
    # Both are repeated in the answer.
    check_depth(request.metadata, "metadata")
    for place, tool in enumerate(request.tools or ()):
        check_depth(tool.parameters, f"tools[{place}].parameters")
    if request.background:
        raise unsupported("background", "background is not supported here; leave it out")
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options", "stream_options: only allowed when stream is true")

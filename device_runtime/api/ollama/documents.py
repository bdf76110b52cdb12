"""What is answered, for the description."""

from typing import Any, Literal, NotRequired, TypedDict


class OllamaError(TypedDict):
    """A refusal."""

    error: str


class LoneAnswer(TypedDict):
    """The draft model answers alone, without the cloud."""

    answered_by: Literal["draft"]


class _Ended(TypedDict):
    """What both kinds of answers say; the figures are missing where nothing was generated."""

    model: str
    created_at: str
    done: bool
    done_reason: str
    total_duration: NotRequired[int]
    load_duration: NotRequired[int]
    prompt_eval_count: NotRequired[int]
    prompt_eval_duration: NotRequired[int]
    eval_count: NotRequired[int]
    eval_duration: NotRequired[int]
    hat: NotRequired[LoneAnswer]


class SaidMessage(TypedDict):
    """What the assistant said, thought and called."""

    role: Literal["assistant"]
    content: str
    thinking: NotRequired[str]
    tool_calls: NotRequired[list[dict[str, Any]]]


class Said(_Ended):
    """The answer to a conversation."""

    message: SaidMessage


class Generated(_Ended):
    """The answer to a prompt."""

    response: str
    thinking: NotRequired[str]


class ListedModel(TypedDict):
    """A model, under one of its names."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: dict[str, Any]


class Tags(TypedDict):
    """All models."""

    models: list[ListedModel]


class RunningModel(ListedModel):
    """A model that is in memory."""

    expires_at: str
    size_vram: int
    context_length: int


class RunningModels(TypedDict):
    """All that are in memory."""

    models: list[RunningModel]


class ShownModel(TypedDict):
    """What there is to know of a model."""

    modelfile: str
    parameters: str
    template: str
    details: dict[str, Any]
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class Version(TypedDict):
    """Of the API."""

    version: str

"""POST /api/chat, /api/generate and /api/show; GET /api/tags, /api/ps and /api/version."""

from datetime import UTC, datetime
from typing import Any, TypeVar

from aiohttp import hdrs, web
from msgspec.structs import replace as replace_fields

from device_runtime.api.answer.sending import answer, json_response
from device_runtime.api.description.table import (
    ANSWER_ERRORS,
    JSON,
    LINES,
    MODEL_ERRORS,
    Api,
    Route,
)
from device_runtime.api.errors import invalid, no_embeddings
from device_runtime.api.job.plan import plan_chat, plan_completion
from device_runtime.api.manners.middleware import request_id_of
from device_runtime.api.ollama.documents import (
    Generated,
    OllamaError,
    RunningModels,
    Said,
    ShownModel,
    Tags,
    Version,
)
from device_runtime.api.ollama.request import (
    CommonFields,
    GenerateRequest,
    OllamaChatRequest,
    ShowRequest,
    chat_of,
    prompt_of,
    served_name,
)
from device_runtime.api.ollama.shape import OllamaShape, envelope
from device_runtime.api.request.body import ChatRequest, read_request
from device_runtime.api.request.sampling import SamplingDefaults
from device_runtime.api.service import SERVICE, Service

VERSION = "0.14.0"
"""Of Ollama's API that is spoken here; clients look at it."""

_FAMILY = "hat"
_NEVER = "2999-01-01T00:00:00Z"
"""When the model is put out of memory."""

FieldsT = TypeVar("FieldsT", bound=CommonFields)


async def chat(request: web.Request) -> web.StreamResponse:
    """Continue a conversation."""
    service = request.app[SERVICE]
    arrived_s = service.metrics.clock()
    fields = _named(service, await read_request(request, OllamaChatRequest, service.timing.read_s))
    if not fields.messages:
        return _loaded(service, fields.model, {"message": {"role": "assistant", "content": ""}})
    name = request_id_of(request)
    job = await plan_chat(service, chat_of(fields), name, arrived_s, cuts_length=True)
    return await answer(request, job, OllamaShape(True, service.unix_clock))


async def generate(request: web.Request) -> web.StreamResponse:
    """Answer a prompt, or continue it as it is."""
    service = request.app[SERVICE]
    arrived_s = service.metrics.clock()
    fields = _named(service, await read_request(request, GenerateRequest, service.timing.read_s))
    if not fields.prompt:
        return _loaded(service, fields.model, {"response": ""})
    asked, name = prompt_of(fields), request_id_of(request)
    if isinstance(asked, ChatRequest):
        job = await plan_chat(service, asked, name, arrived_s, cuts_length=True)
    else:
        job = await plan_completion(service, asked, name, arrived_s, cuts_length=True)
    return await answer(request, job, OllamaShape(False, service.unix_clock))


async def tags(request: web.Request) -> web.Response:
    """The model that is served, under each of its names."""
    service = request.app[SERVICE]
    return json_response({"models": [_listed(service, name) for name in service.model.names]})


async def running(request: web.Request) -> web.Response:
    """The same as running."""
    service = request.app[SERVICE]
    models = [
        {
            **_listed(service, name),
            "expires_at": _NEVER,
            "size_vram": 0,
            "context_length": service.generator.max_context_tokens,
        }
        for name in service.model.names
    ]
    return json_response({"models": models})


async def show(request: web.Request) -> web.Response:
    """What there is to know of the model."""
    service = request.app[SERVICE]
    fields = await read_request(request, ShowRequest, service.timing.read_s)
    name = served_name(fields.model or fields.name, service.model.names)
    if name is None:
        raise invalid("model", "model: this field is required", code="missing_field")
    service.model.check(name)
    capabilities = ["completion", "tools"]
    if service.thought_marks is not None:
        capabilities.append("thinking")
    return json_response(
        {
            "modelfile": "",
            "parameters": _parameters(service.sampling),
            "template": service.template.source or "",
            "details": _details(),
            "model_info": {
                "general.architecture": _FAMILY,
                # What VS Code shows as the model's name.
                "general.basename": name,
                f"{_FAMILY}.context_length": service.generator.max_context_tokens,
                f"{_FAMILY}.vocab_size": service.generator.vocab_size,
            },
            "capabilities": capabilities,
            "modified_at": service.model.created_at,
        }
    )


async def version(_request: web.Request) -> web.Response:
    """Which of Ollama's versions this speaks like."""
    return json_response({"version": VERSION})


async def embed(_request: web.Request) -> web.StreamResponse:
    """Refused with the reason.

    Raises:
        ApiError: 501.
    """
    raise no_embeddings()


def _named(service: Service, fields: FieldsT) -> FieldsT:
    """The request with the model's name as it is served."""
    return replace_fields(fields, model=served_name(fields.model, service.model.names))


def _loaded(service: Service, model: str | None, empty: dict[str, Any]) -> web.Response:
    """The answer to who only wants the model in memory, where it is."""
    service.model.check(model)
    created = datetime.fromtimestamp(service.unix_clock(), UTC).isoformat()
    told = {"model": service.model.id, "created_at": created, **empty}
    return json_response({**told, "done": True, "done_reason": "load"})


def _listed(service: Service, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "modified_at": service.model.created_at,
        "size": 0,
        "digest": service.model.fingerprint,
        "details": _details(),
    }


def _details() -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": _FAMILY,
        "families": [_FAMILY],
        "parameter_size": "",
        "quantization_level": "",
    }


def _parameters(sampling: SamplingDefaults) -> str:
    """What requests sample with that say nothing, as lines of a Modelfile."""
    names = {"repetition_penalty": "repeat_penalty"}
    values = sampling.values().items()
    return "\n".join(f"{names.get(name, name)} {value}" for name, value in values)


_PREFIX = "/api/"

API = Api(
    "ollama",
    (
        Route(
            hdrs.METH_POST,
            f"{_PREFIX}chat",
            chat,
            {JSON: Said, LINES: Any},
            OllamaChatRequest,
            ANSWER_ERRORS,
        ),
        Route(
            hdrs.METH_POST,
            f"{_PREFIX}generate",
            generate,
            {JSON: Generated, LINES: Any},
            GenerateRequest,
            ANSWER_ERRORS,
        ),
        Route(hdrs.METH_GET, f"{_PREFIX}tags", tags, {JSON: Tags}),
        Route(hdrs.METH_GET, f"{_PREFIX}ps", running, {JSON: RunningModels}),
        Route(
            hdrs.METH_POST, f"{_PREFIX}show", show, {JSON: ShownModel}, ShowRequest, MODEL_ERRORS
        ),
        Route(hdrs.METH_GET, f"{_PREFIX}version", version, {JSON: Version}),
        Route(hdrs.METH_POST, f"{_PREFIX}embed", embed, {}, errors=(501,)),
        Route(hdrs.METH_POST, f"{_PREFIX}embeddings", embed, {}, errors=(501,)),
    ),
    envelope,
    OllamaError,
    prefix=_PREFIX,
)

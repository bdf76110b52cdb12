"""GET /, /openapi.json, /v1/models, /health, /ready and /metrics: what this is, and how it is."""

from typing import Any, Literal, NotRequired, TypedDict

from aiohttp import hdrs, web
from msgspec import UNSET

from device_runtime.api.answer.sending import json_response
from device_runtime.api.description.document import DESCRIPTION, plain_path
from device_runtime.api.description.table import JSON, MODEL_ERRORS, Api, Route, routes_of
from device_runtime.api.errors import unavailable
from device_runtime.api.figures import LONE_HEADERS
from device_runtime.api.openai.messages import Model, ModelList, SamplingDefault
from device_runtime.api.page.document import PAGE, page_response, wants_page
from device_runtime.api.request.sampling import OPENAI
from device_runtime.api.service import SERVICE, Service

_PLAIN = "text/plain"
_METRICS_TYPE = f"{_PLAIN}; version=0.0.4; charset=utf-8"
_DESCRIPTION_PATH = "/openapi.json"


class About(TypedDict):
    """What answers here, where, and where that is described."""

    what: str
    model: str
    endpoints: list[str]
    description: str


class Health(TypedDict):
    """The process lives."""

    status: Literal["ok"]


class Readiness(TypedDict):
    """A request would be served now, and by the draft model alone if it says so."""

    status: Literal["ready"]
    answered_by: NotRequired[Literal["draft"]]


async def about(request: web.Request) -> web.Response:
    """What answers here: for a browser a page to chat with, for programs the routes."""
    if wants_page(request):
        return page_response(request.app[PAGE])
    paths = (route.path for route in routes_of(request.app))
    return json_response(
        {
            "what": "hat: an OpenAI-compatible endpoint on the device; most of the model runs in "
            "the cloud, text and tokens stay here",
            "model": request.app[SERVICE].model.id,
            "endpoints": list(dict.fromkeys(map(plain_path, paths))),
            "description": _DESCRIPTION_PATH,
        },
        headers={"Vary": "Accept"},
    )


async def list_models(request: web.Request) -> web.Response:
    """The one model served, under each of its names."""
    service = request.app[SERVICE]
    names = service.model.names
    entries = [_entry(service, name) for name in names]
    return json_response(ModelList(data=entries, first_id=names[0], last_id=names[-1]))


async def get_model(request: web.Request) -> web.Response:
    """The model of this name, which may have slashes in it."""
    service = request.app[SERVICE]
    name = request.match_info["model"]
    service.model.check(name)
    return json_response(_entry(service, name))


async def health(_request: web.Request) -> web.Response:
    """Alive, whatever the cloud does."""
    return json_response({"status": "ok"})


async def ready(request: web.Request) -> web.Response:
    """Whether a request would be served now.

    Raises:
        ApiError: 503 with the reason: the server stops, or the cloud cannot be reached.
    """
    service = request.app[SERVICE]
    if service.drain.is_draining:
        raise service.drain.refusal()
    reason = service.generator.ready()
    if reason is not None and service.generator.answers_alone:
        return json_response({"status": "ready", "answered_by": "draft"}, headers=LONE_HEADERS)
    if reason is not None:
        raise unavailable(reason, "cloud_unavailable", retry_after_s=1.0)
    return json_response({"status": "ready"})


async def metrics(request: web.Request) -> web.Response:
    """For Prometheus."""
    body = request.app[SERVICE].metrics.render()
    return web.Response(body=body, headers={"Content-Type": _METRICS_TYPE})


async def describe(request: web.Request) -> web.Response:
    """This description (OpenAPI)."""
    return web.Response(body=request.app[DESCRIPTION], content_type=JSON)


def _entry(service: Service, name: str) -> Model:
    model, room = service.model, service.generator.max_context_tokens
    return Model(
        id=name,
        display_name=name,
        created_at=model.created_at,
        max_input_tokens=room,
        max_tokens=room,
        created=model.created,
        root=model.root,
        max_model_len=room,
        sampling_defaults={
            name: SamplingDefault(value, service.sampling.sources.get(name, OPENAI))
            for name, value in service.sampling.values().items()
        },
        lossy_codecs=dict(service.lossy_codecs()) or UNSET,
        when_cloud_gone=service.lone_answers or UNSET,
    )


API = Api(
    "status",
    (
        Route(hdrs.METH_GET, "/v1/models", list_models, {JSON: ModelList}),
        Route(hdrs.METH_GET, "/v1/models/{model:.+}", get_model, {JSON: Model}, None, MODEL_ERRORS),
        # Probes carry no key, and what these two say is harmless.
        Route(hdrs.METH_GET, "/health", health, {JSON: Health}, is_open=True),
        Route(hdrs.METH_GET, "/ready", ready, {JSON: Readiness}, errors=(503,), is_open=True),
        Route(hdrs.METH_GET, "/metrics", metrics, {_PLAIN: str}),
        Route(hdrs.METH_GET, _DESCRIPTION_PATH, describe, {JSON: dict[str, Any]}),
        Route(hdrs.METH_GET, "/", about, {JSON: About, "text/html": str}),
    ),
)

"""GET /, /v1/models, /health, /ready and /metrics: what this is, and how it is."""

from aiohttp import web
from msgspec import UNSET

from device_runtime.api.answer.sending import json_response
from device_runtime.api.errors import unavailable
from device_runtime.api.openai.messages import Model, ModelList, SamplingDefault
from device_runtime.api.page.document import PAGE, page_response, wants_page
from device_runtime.api.request.sampling import OPENAI
from device_runtime.api.service import SERVICE, Service

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def about(request: web.Request) -> web.Response:
    """What answers here: for a browser a page to chat with, for programs the routes."""
    if wants_page(request):
        return page_response(request.app[PAGE])
    return json_response(
        {
            "what": "hat: an OpenAI-compatible endpoint on the device; most of the model runs in "
            "the cloud, text and tokens stay here",
            "model": request.app[SERVICE].model.id,
            "endpoints": [
                "/v1/models",
                "/v1/chat/completions",
                "/v1/completions",
                "/v1/responses",
                "/v1/messages",
                "/api/chat",
                "/tokenize",
                "/detokenize",
                "/health",
                "/ready",
                "/metrics",
            ],
        },
        headers={"Vary": "Accept"},
    )


async def list_models(request: web.Request) -> web.Response:
    """The one model served, under each of its names."""
    service = request.app[SERVICE]
    return json_response(ModelList(data=[_entry(service, name) for name in service.model.names]))


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
    if reason is not None:
        raise unavailable(reason, "cloud_unavailable", retry_after_s=1.0)
    return json_response({"status": "ready"})


async def metrics(request: web.Request) -> web.Response:
    """For Prometheus."""
    body = request.app[SERVICE].metrics.render()
    return web.Response(body=body, headers={"Content-Type": _METRICS_TYPE})


def _entry(service: Service, name: str) -> Model:
    model = service.model
    return Model(
        id=name,
        created=model.created,
        root=model.root,
        max_model_len=service.generator.max_context_tokens,
        sampling_defaults={
            name: SamplingDefault(value, service.sampling.sources.get(name, OPENAI))
            for name, value in service.sampling.values().items()
        },
        lossy_codecs=dict(service.lossy_codecs()) or UNSET,
    )

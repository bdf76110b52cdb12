"""GET /, /health, /ready and /metrics: what this is, and how it is."""

from aiohttp import web

from device_runtime.api.errors import unavailable
from device_runtime.api.response.answering import json_response
from device_runtime.api.service import SERVICE

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def about(request: web.Request) -> web.Response:
    """What answers here, for someone who opens the address in a browser."""
    return json_response(
        {
            "what": "hat: an OpenAI-compatible endpoint on the device; most of the model runs in "
            "the cloud, text and tokens stay here",
            "model": request.app[SERVICE].model.id,
            "endpoints": [
                "/v1/models",
                "/v1/chat/completions",
                "/v1/completions",
                "/tokenize",
                "/detokenize",
                "/health",
                "/ready",
                "/metrics",
            ],
        }
    )


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

"""GET /v1/models and /v1/models/{id}."""

from aiohttp import web

from device_runtime.api.request.sampling_defaults import OPENAI
from device_runtime.api.response.answering import json_response
from device_runtime.api.response.messages import Model, ModelList, SamplingDefault
from device_runtime.api.service import SERVICE, Service


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
    )

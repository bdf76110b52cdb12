"""GET /v1/models and /v1/models/{id}."""

from aiohttp import web

from device_runtime.api.answering import json_response
from device_runtime.api.parameters import check_model
from device_runtime.api.responses import Model, ModelList
from device_runtime.api.service import SERVICE, Service


async def list_models(request: web.Request) -> web.Response:
    """The one model served."""
    return json_response(ModelList(data=[_entry(request.app[SERVICE])]))


async def get_model(request: web.Request) -> web.Response:
    """The model of this name, which may have slashes in it."""
    service = request.app[SERVICE]
    check_model(request.match_info["model"], service.model)
    return json_response(_entry(service))


def _entry(service: Service) -> Model:
    model = service.model
    return Model(
        id=model.id,
        created=model.created,
        root=model.root,
        max_model_len=service.generator.max_context_tokens,
    )

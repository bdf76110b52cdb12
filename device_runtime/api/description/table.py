"""What an API serves: a table of routes, and how its errors are written."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from msgspec import Struct

from device_runtime.api.errors import ApiError, Envelope, ErrorDocument

JSON = "application/json"
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"

MODEL_ERRORS = (404,)
"""Of what names a model: another one is served."""

ANSWER_ERRORS = (*MODEL_ERRORS, 429, 503)
"""Of what has the model write: too many ask, or the cloud cannot be reached."""


@dataclass(frozen=True, slots=True)
class Route:
    """A method, a path in aiohttp's words, and what is asked and answered there.

    The first line of the handler's docstring is its summary. `answers` has for each content type
    what is said in it, as a type; without any the route only refuses. `errors` are statuses beside
    those that any request may meet. An open route needs no key.
    """

    method: str
    path: str
    handler: Handler
    answers: Mapping[str, Any]
    request: type[Struct] | None = None
    errors: Sequence[int] = ()
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Api:
    """Routes that belong together.

    Errors are written its own way behind its `prefix`, and to clients that send its `header`.
    """

    name: str
    routes: Sequence[Route]
    envelope: Envelope = ApiError.encode
    error: type = ErrorDocument
    """What `envelope` writes."""
    prefix: str | None = None
    header: str | None = None
    prepare: Callable[[web.Application], None] = field(default=lambda app: None)
    """Give the application what only this API needs."""


APIS = web.AppKey("apis", Sequence[Api])
"""All that is served."""


def routes_of(app: web.Application) -> Iterator[Route]:
    """All routes of an application, API after API."""
    for api in app[APIS]:
        yield from api.routes


def is_open(request: web.Request) -> bool:
    """Whether a request needs no key, whatever it asks."""
    return any(route.is_open and route.path == request.path for route in routes_of(request.app))


def envelope_of(request: web.Request) -> Envelope:
    """How errors are written for who asks this; where no API says, as OpenAI's does."""
    for api in request.app[APIS]:
        if api.prefix is not None and request.path.startswith(api.prefix):
            return api.envelope
    for api in request.app[APIS]:
        if api.header is not None and api.header in request.headers:
            return api.envelope
    return ApiError.encode


def add_routes(app: web.Application, apis: Sequence[Api], expect_handler: Any) -> None:
    """Serve these; a GET may be a HEAD as well."""
    app[APIS] = apis
    for api in apis:
        api.prepare(app)
        for route in api.routes:
            if route.method == hdrs.METH_GET:
                app.router.add_get(route.path, route.handler, expect_handler=expect_handler)
            else:
                app.router.add_route(
                    route.method, route.path, route.handler, expect_handler=expect_handler
                )

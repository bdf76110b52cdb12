"""The endpoint as an aiohttp application."""

import logging
from functools import partial

from aiohttp import hdrs, web

from device_runtime.api import status, tokens
from device_runtime.api.anthropic import routes as anthropic
from device_runtime.api.description.document import DESCRIPTION, describe
from device_runtime.api.description.table import add_routes
from device_runtime.api.errors import ApiError
from device_runtime.api.manners.cors import add_cors_headers, add_headers, check_origin
from device_runtime.api.manners.middleware import (
    QUIET_LOG,
    REQUEST_ID,
    check_expectation,
    check_key,
    error_response,
    leave_to_middleware,
    name_and_log,
    new_name,
    shape_errors,
)
from device_runtime.api.manners.not_found import EVERYTHING_ELSE_PATTERN, nothing_here
from device_runtime.api.ollama import routes as ollama
from device_runtime.api.openai import routes as openai
from device_runtime.api.page.document import PAGE, load_page
from device_runtime.api.responses import routes as responses
from device_runtime.api.service import SERVICE, AccessRules, Service
from process.listening.guard import Guard
from process.listening.limits import Limits, default_max_connections, default_max_per_address
from process.listening.patient_handler import PatientHandler
from process.listening.refusals import Refusal
from process.listening.runner import GuardedRunner
from process.open_files import open_files_limit
from process.quiet_log import QuietLog

_log = logging.getLogger(__name__)

# A body holds at most a full context as token ids or escaped text, and some room for the rest.
_BODY_BYTES_PER_TOKEN = 16
_BODY_BYTES_BESIDE = 1 << 20

_APIS = (openai.API, responses.API, anthropic.API, ollama.API, tokens.API, status.API)


def make_app(service: Service) -> web.Application:
    """All routes over one service."""
    max_body_bytes = _BODY_BYTES_BESIDE + (
        _BODY_BYTES_PER_TOKEN * service.generator.max_context_tokens
    )
    app = web.Application(
        middlewares=[name_and_log, shape_errors, check_origin, check_key, check_expectation],
        client_max_size=max_body_bytes,
    )
    app[SERVICE] = service
    app[PAGE] = load_page()
    app[DESCRIPTION] = describe(_APIS, has_key=service.access.api_key is not None)
    app[QUIET_LOG] = QuietLog(_log, service.clock)
    app.on_response_prepare.append(add_headers)
    add_routes(app, _APIS, leave_to_middleware)
    app.router.add_route(
        hdrs.METH_ANY, EVERYTHING_ELSE_PATTERN, nothing_here, expect_handler=leave_to_middleware
    )
    return app


def make_runner(service: Service) -> GuardedRunner:
    """A runner in which a client's leaving cancels its request.

    Our own log lines take the place of aiohttp's. Requests have been drained before it stops, so
    it need not wait long.
    """
    max_connections = default_max_connections(open_files_limit())
    limits = Limits(max_connections, default_max_per_address(max_connections))
    _log.info("room for %d connections, %d of one address", max_connections, limits.max_per_address)
    guard = Guard(limits, QuietLog(_log, service.clock), partial(_refuse, service.access))
    return GuardedRunner(
        make_app(service), guard, PatientHandler, handler_cancellation=True, shutdown_timeout=2.0
    )


def _refuse(access: AccessRules, refusal: Refusal) -> web.Response:
    """What the listener refuses, in the envelope and readable by the pages that may ask."""
    error = ApiError(refusal.status, refusal.message, code=refusal.code, headers=refusal.headers)
    response = error_response(error)
    response.headers[REQUEST_ID] = new_name()
    add_cors_headers(response, refusal.origin, access)
    return response

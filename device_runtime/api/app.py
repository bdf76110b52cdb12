"""The endpoint as an aiohttp application."""

import logging
from collections.abc import Mapping
from functools import partial

from aiohttp import hdrs, web

from device_runtime.api.anthropic.routes import PATH as MESSAGES_PATH
from device_runtime.api.anthropic.routes import count_tokens, messages
from device_runtime.api.anthropic.shape import envelope as anthropic_envelope
from device_runtime.api.errors import ApiError, Envelope
from device_runtime.api.manners.cors import add_cors_headers, add_headers, check_origin
from device_runtime.api.manners.middleware import (
    ENVELOPES,
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
from device_runtime.api.ollama.routes import PREFIX as OLLAMA_PREFIX
from device_runtime.api.ollama.routes import chat as ollama_chat
from device_runtime.api.ollama.routes import generate, running, show, tags, version
from device_runtime.api.ollama.shape import envelope as ollama_envelope
from device_runtime.api.openai.routes import chat_completions, completions, embeddings
from device_runtime.api.page.document import PAGE, load_page
from device_runtime.api.responses.routes import PATH as RESPONSES_PATH
from device_runtime.api.responses.routes import STORE, delete_response, get_response, responses
from device_runtime.api.responses.store import ResponseStore
from device_runtime.api.service import SERVICE, AccessRules, Service
from device_runtime.api.status import about, get_model, health, list_models, metrics, ready
from device_runtime.api.tokens import detokenize, tokenize
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


_ROUTES = (
    (hdrs.METH_GET, "/v1/models", list_models),
    (hdrs.METH_GET, "/v1/models/{model:.+}", get_model),
    (hdrs.METH_POST, "/v1/chat/completions", chat_completions),
    (hdrs.METH_POST, "/v1/completions", completions),
    (hdrs.METH_POST, RESPONSES_PATH, responses),
    (hdrs.METH_GET, f"{RESPONSES_PATH}/{{id}}", get_response),
    (hdrs.METH_DELETE, f"{RESPONSES_PATH}/{{id}}", delete_response),
    (hdrs.METH_POST, MESSAGES_PATH, messages),
    (hdrs.METH_POST, f"{MESSAGES_PATH}/count_tokens", count_tokens),
    (hdrs.METH_POST, f"{OLLAMA_PREFIX}chat", ollama_chat),
    (hdrs.METH_POST, f"{OLLAMA_PREFIX}generate", generate),
    (hdrs.METH_GET, f"{OLLAMA_PREFIX}tags", tags),
    (hdrs.METH_GET, f"{OLLAMA_PREFIX}ps", running),
    (hdrs.METH_POST, f"{OLLAMA_PREFIX}show", show),
    (hdrs.METH_GET, f"{OLLAMA_PREFIX}version", version),
    (hdrs.METH_POST, "/v1/embeddings", embeddings),
    (hdrs.METH_POST, f"{OLLAMA_PREFIX}embed", embeddings),
    (hdrs.METH_POST, "/tokenize", tokenize),
    (hdrs.METH_POST, "/detokenize", detokenize),
    (hdrs.METH_GET, "/health", health),
    (hdrs.METH_GET, "/ready", ready),
    (hdrs.METH_GET, "/metrics", metrics),
    (hdrs.METH_GET, "/", about),
)


_ENVELOPES: Mapping[str, Envelope] = {
    MESSAGES_PATH: anthropic_envelope,
    OLLAMA_PREFIX: ollama_envelope,
}


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
    app[STORE] = ResponseStore()
    app[ENVELOPES] = _ENVELOPES
    app[QUIET_LOG] = QuietLog(_log, service.clock)
    app.on_response_prepare.append(add_headers)
    for method, path, handler in _ROUTES:
        if method == hdrs.METH_GET:
            app.router.add_get(path, handler, expect_handler=leave_to_middleware)
        else:
            app.router.add_route(method, path, handler, expect_handler=leave_to_middleware)
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

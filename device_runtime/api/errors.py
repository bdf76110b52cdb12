"""One shape for every refusal: `{"error": {message, type, param, code}}`."""

import math
from collections.abc import Callable, Mapping

import msgspec

from device_runtime.calling.reader import HalfCallError
from device_runtime.generation.grammar import GrammarError
from device_runtime.generation.request import CloudUnavailableError, OverloadedError

# OpenAI's and Anthropic's clients try again what is 429, 500 or above, unless they are told.
_NO_RETRY = {"x-should-retry": "false"}

# The words of OpenAI's API for kinds of errors; below 500 all others are the request's.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


class ErrorDetails(msgspec.Struct, frozen=True):
    """What went wrong, for people and for programs."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorDocument(msgspec.Struct, frozen=True):
    """A refusal, as OpenAI's API has it."""

    error: ErrorDetails


class ApiError(Exception):
    """An answer that is an error. `param` names the field at fault, where there is one."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self._headers = dict(headers or {})

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to the error."""
        if self.retry_after_s is None:
            return self._headers
        return self._headers | {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}

    @property
    def kind(self) -> str:
        """What OpenAI's API calls errors of this status."""
        other = "server_error" if self.status >= 500 else "invalid_request_error"
        return _TYPES.get(self.status, other)

    def encode(self) -> bytes:
        """The envelope as JSON."""
        error = ErrorDetails(self.message, self.kind, self.param, self.code)
        return msgspec.json.encode(ErrorDocument(error))


class TooLongError(ApiError):
    """A 400: a prompt, or a prompt and what is to be generated, is longer than the context.

    `num_tokens`: at least so many came; of a text that is far too long only a part is counted.
    """

    def __init__(self, param: str, message: str, num_tokens: int, max_tokens: int) -> None:
        super().__init__(400, message, code="context_length_exceeded", param=param)
        self.num_tokens = num_tokens
        self.max_tokens = max_tokens


def half_call(error: HalfCallError) -> str:
    """What an answer has to say that ended too early."""
    which = "a tool call" if error.name is None else f"a call of the tool {error.name!r}"
    what = "max_tokens" if error.reason == "length" else "a stop string"
    return f"{what} ended the answer in the middle of {which}"


Envelope = Callable[[ApiError], bytes]
"""How an API writes an error down; `ApiError.encode` is OpenAI's way."""


def invalid(param: str | None, message: str, code: str = "invalid_value") -> ApiError:
    """A 400 about one field."""
    return ApiError(400, message, code=code, param=param)


def unsupported(param: str, message: str) -> ApiError:
    """A 400 for what would change the meaning of the answer and is not there."""
    return ApiError(400, message, code="unsupported_parameter", param=param)


def unavailable(reason: str, code: str, retry_after_s: float) -> ApiError:
    """A 503 that asks to come back."""
    return ApiError(503, reason, code=code, retry_after_s=retry_after_s)


def internal_error() -> ApiError:
    """A 500; what happened is in the log, not in the answer."""
    return ApiError(500, "internal error; the log has the details", code="internal_error")


def no_embeddings() -> ApiError:
    """A 501 with the reason."""
    message = (
        "embeddings are not served here: this model was made to write, its states are no good "
        "embeddings, and the cloud sees half of it; use a small embedding model on the device"
    )
    return ApiError(501, message, code="not_supported", headers=_NO_RETRY)


def as_api_error(error: Exception) -> ApiError | None:
    """The answer to a failed generation, or None when the failure is a bug."""
    match error:
        case ApiError():
            return error
        case CloudUnavailableError(is_quota=True, may_retry=False):
            # It wants more at once than its name may ever have.
            return ApiError(429, error.reason, code="quota_exceeded", headers=_NO_RETRY)
        case CloudUnavailableError(is_quota=True):
            after_s = error.retry_after_s
            return ApiError(429, error.reason, code="quota_exceeded", retry_after_s=after_s)
        case CloudUnavailableError():
            return unavailable(error.reason, "cloud_unavailable", error.retry_after_s)
        case HalfCallError():
            param = "max_tokens" if error.reason == "length" else "stop"
            return ApiError(400, half_call(error), code="tool_call_incomplete", param=param)
        case GrammarError():
            return ApiError(400, error.reason, code="grammar_failed")
        case OverloadedError():
            return ApiError(429, error.reason, code="overloaded", retry_after_s=error.retry_after_s)
        case _:
            return None

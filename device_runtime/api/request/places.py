"""Fields by the names they have in another API than the one they were planned in."""

import re
from collections.abc import Mapping

from device_runtime.api.errors import ApiError

Places = Mapping[re.Pattern[str], str]
"""Patterns of a place in a request for chat, and what stands for it."""


def told_in(error: ApiError, places: Places) -> str:
    """The error's message, with the place that it begins with as the client knows it."""
    for pattern, own in places.items():
        if pattern.match(error.message):
            return pattern.sub(own, error.message, count=1)
    return error.message

"""Responses that a later request may go on from; in memory, and only so many."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from device_runtime.api.responses.request import Item

MAX_RESPONSES = 256
MAX_BYTES = 16 << 20
"""Of all that is kept, as JSON."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What was said up to the end of a response, and the response as it was sent."""

    items: Sequence[Item]
    document: Mapping[str, Any]
    num_bytes: int
    own_items: Mapping[str, Item] = field(default_factory=dict)
    """Those of its output, by their ids."""


class ResponseStore:
    """The last ones; those that were used least recently go first."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._stored: OrderedDict[str, Stored] = OrderedDict()
        self._num_bytes = 0
        self._items: dict[str, Item] = {}

    def __len__(self) -> int:
        return len(self._stored)

    @property
    def _is_full(self) -> bool:
        is_long = self._num_bytes > self._max_bytes
        return is_long or len(self._stored) > self._max_responses

    def get(self, response_id: str) -> Stored | None:
        """The response of this id, if it is still there."""
        stored = self._stored.get(response_id)
        if stored is not None:
            self._stored.move_to_end(response_id)
        return stored

    def item(self, item_id: str) -> Item | None:
        """The item of this id, if the response that it is of is still there."""
        return self._items.get(item_id)

    def put(self, response_id: str, stored: Stored) -> None:
        """Keep a response; one that is too long by itself is not kept."""
        self.delete(response_id)
        if stored.num_bytes > self._max_bytes:
            return
        self._stored[response_id] = stored
        self._items.update(stored.own_items)
        self._num_bytes += stored.num_bytes
        while self._is_full:
            self.delete(next(iter(self._stored)))

    def delete(self, response_id: str) -> bool:
        """Forget a response; whether it was there."""
        stored = self._stored.pop(response_id, None)
        if stored is not None:
            self._num_bytes -= stored.num_bytes
            for item_id in stored.own_items:
                self._items.pop(item_id, None)
        return stored is not None

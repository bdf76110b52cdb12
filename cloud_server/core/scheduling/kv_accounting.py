"""Who holds how much of the KV cache, in tokens. Every reservation is made once and ends once."""

from cloud_server.core.actions import SequenceHandle


class KvFullError(Exception):
    """There is no room for a reservation now; the message has the numbers."""


class KvAccounting:
    """Reservations of KV positions; their sum never exceeds `capacity_tokens`.

    A reservation takes whole blocks of `block_tokens`, and so does the capacity.
    """

    def __init__(self, capacity_tokens: int, block_tokens: int = 1) -> None:
        if block_tokens < 1:
            raise ValueError(f"expected blocks of at least 1 token, got {block_tokens}")
        if capacity_tokens < block_tokens:
            least = f"{block_tokens} token{'s' if block_tokens > 1 else ''}"
            raise ValueError(f"expected a capacity of at least {least}, got {capacity_tokens}")
        self._block_tokens = block_tokens
        self.capacity_tokens = capacity_tokens // block_tokens * block_tokens
        self.reserved_tokens = 0
        self._reservations: dict[SequenceHandle, int] = {}

    @property
    def free_tokens(self) -> int:
        """Positions that can still be reserved."""
        return self.capacity_tokens - self.reserved_tokens

    def charge(self, max_tokens: int) -> int:
        """What a reservation of so many positions takes."""
        return -(-max_tokens // self._block_tokens) * self._block_tokens

    def whole_blocks(self, num_tokens: int) -> int:
        """So many positions, or fewer: those that fill blocks."""
        return num_tokens // self._block_tokens * self._block_tokens

    def held(self, handle: SequenceHandle) -> int:
        """What a sequence has reserved, in positions; 0 without a reservation."""
        return self._reservations.get(handle, 0)

    def reserve(self, handle: SequenceHandle, max_tokens: int) -> None:
        """Set `max_tokens` positions aside for a sequence until it is released.

        Raises:
            KvFullError: fewer are free; nothing is reserved then.
            ValueError: the sequence has a reservation already, or `max_tokens` is below 1.
        """
        if handle in self._reservations:
            raise ValueError(f"expected a sequence without a reservation, got {handle}")
        if max_tokens < 1:
            raise ValueError(f"expected max_tokens of at least 1, got {max_tokens}")
        charged_tokens = self.charge(max_tokens)
        if charged_tokens > self.free_tokens:
            free = f"{self.free_tokens} free of {self.capacity_tokens} tokens"
            raise KvFullError(f"expected at most {free}, got {charged_tokens}")
        self._reservations[handle] = charged_tokens
        self.reserved_tokens += charged_tokens

    def release(self, handle: SequenceHandle) -> None:
        """Give a sequence's positions back.

        Raises:
            ValueError: the sequence has no reservation.
        """
        if handle not in self._reservations:
            raise ValueError(f"expected a sequence with a reservation, got {handle}")
        self.reserved_tokens -= self._reservations.pop(handle)

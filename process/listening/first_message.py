"""The first message of a WebSocket, bounded before any of it is held (RFC 6455, section 5.2)."""

_CONTROL = 0x8
_LEAST_HEADER = 2
_LENGTH_BYTES = {126: 2, 127: 8}
_MASK_BYTES = 4


class TooLargeError(Exception):
    """A first message is longer than allowed, or does not come to its end among other frames."""


class FirstMessage:
    """Follows what a client sends up to the end of its first message.

    `max_bytes` bounds that message by the lengths that its frames announce, and twice that all
    that comes before its end: pings and the headers of its frames. `is_patient` leaves that out:
    a message may follow any number of pings.
    """

    def __init__(self, max_bytes: int, is_patient: bool = False) -> None:
        self._max_bytes = max_bytes
        self._is_patient = is_patient
        self._header = bytearray()
        self._num_left = 0
        self._num_taken = 0
        self._num_message_bytes = 0
        self._is_last = False
        self.is_whole = False

    def take(self, data: bytes | memoryview) -> int:
        """How many of these bytes to pass on: all, or those up to the end of the message.

        Raises:
            TooLargeError: none of them must be held.
        """
        position = 0
        while position < len(data) and not self.is_whole:
            if self._num_left:
                num_bytes = min(self._num_left, len(data) - position)
                self._num_left -= num_bytes
                position += num_bytes
                self._end_frame()
                continue
            self._header.append(data[position])
            position += 1
            if len(self._header) >= _LEAST_HEADER and len(self._header) == self._header_bytes:
                self._begin_frame()
        self._num_taken += position
        if self._num_taken > 2 * self._max_bytes and not self._is_patient:
            raise TooLargeError
        return position

    @property
    def _header_bytes(self) -> int:
        second = self._header[1]
        mask = _MASK_BYTES if second & 0x80 else 0
        return _LEAST_HEADER + _LENGTH_BYTES.get(second & 0x7F, 0) + mask

    def _begin_frame(self) -> None:
        first, second = self._header[:_LEAST_HEADER]
        length = second & 0x7F
        if length in _LENGTH_BYTES:
            end = _LEAST_HEADER + _LENGTH_BYTES[length]
            length = int.from_bytes(self._header[_LEAST_HEADER:end], "big")
        self._header.clear()
        is_control = bool(first & _CONTROL)
        if not is_control:
            self._num_message_bytes += length
        if length > self._max_bytes or self._num_message_bytes > self._max_bytes:
            raise TooLargeError
        self._is_last = bool(first & 0x80) and not is_control
        self._num_left = length
        self._end_frame()

    def _end_frame(self) -> None:
        if self._num_left == 0 and self._is_last:
            self.is_whole = True

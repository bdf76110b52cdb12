"""What is read before a body or a handler: first messages of WebSockets, hosts, origins, traces.

Nothing of it may raise, whatever a header holds; and it does not matter into which pieces the bytes
of a first message fall on their way.
"""

from device_runtime.api.manners.origins import allows_host, allows_origin
from device_runtime.api.request.traces import read_traceparent
from process.listening.addresses import address_key, client_host, parse_networks
from process.listening.first_message import FirstMessage, TooLargeError
from tests.fuzz.draws import Draws

MAX_BYTES = 200
TRUSTED = parse_networks(("10.0.0.0/8", "fd00::/8", "127.0.0.1"))
PARTS = (
    *("localhost", "127.0.0.1", "[::1]", "::ffff:10.0.0.1", "10.0.0.1", "evil.example", "%25", "@"),
    *(":", "/", ",", " ", "http://", "https://", "null", "*", "xn--", "\u0130", "9" * 30, "-", "."),
    *(
        "00-",
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "-00f067aa0ba902b7",
        "-01",
        "ff-",
        ":80",
        "[",
        "]",
    ),
)


def check(data: bytes) -> int:
    """Read some; one.

    Raises:
        Exception: something escaped, or two ways to the same bytes differ.
    """
    draws = Draws(bytes(data))
    if draws.flag():
        _first_message(draws)
    else:
        _headers(draws)
    return 1


def _headers(draws: Draws) -> None:
    texts = [_text(draws) for _ in range(3)]
    allows_host(texts[0], ("*.example", "hat.local"))
    allows_origin(texts[1], texts[0], ("localhost", "https://*.example"))
    host = client_host("10.0.0.9", texts, TRUSTED)
    assert address_key(host)
    found = read_traceparent(texts[: draws.number(0, 2)])
    assert found is None or (len(found.trace_id), len(found.parent_id)) == (16, 8)


def _text(draws: Draws) -> str:
    """What a header may hold: no line ends, which no parser lets through."""
    pieces = [draws.pick(PARTS) for _ in range(draws.number(0, 5))]
    noise = draws.noise(4).decode("latin-1").replace("\n", "").replace("\r", "")
    return "".join([*pieces, noise])


def _first_message(draws: Draws) -> None:
    frames = [_frame(draws) for _ in range(draws.number(1, 5))]
    data = b"".join(frames)
    places = sorted(draws.number(0, len(data)) for _ in range(draws.number(0, 4)))
    whole, pieces = FirstMessage(MAX_BYTES), FirstMessage(MAX_BYTES)
    assert _taken(whole, [data]) == _taken(pieces, _cut(data, places))


def _frame(draws: Draws) -> bytes:
    """A client's frame, whose announced length need not be its own."""
    length = draws.pick((0, 1, 5, 125, 126, 199, 200, 201, 2**16, 2**63))
    second = length if length < 126 else 126 if length < 2**16 else 127
    more = b"" if length < 126 else length.to_bytes(2 if length < 2**16 else 8, "big")
    head = bytes((draws.number(0, 255), second | 0x80 * draws.flag())) + more
    return head + draws.some(draws.number(0, 220))


def _cut(data: bytes, places: list[int]) -> list[bytes]:
    begins = [0, *places]
    return [data[begin:end] for begin, end in zip(begins, [*places, len(data)], strict=True)]


def _taken(message: FirstMessage, pieces: list[bytes]) -> int | None:
    """How many bytes are passed on until it is whole; None: it is refused."""
    num_taken = 0
    for piece in pieces:
        if message.is_whole:
            break
        try:
            num_taken += message.take(piece)
        except TooLargeError:
            return None
    return num_taken


def seeds() -> list[bytes]:
    """Bytes to begin with."""
    return [bytes((place * 23 + number) % 256 for place in range(200)) for number in range(8)]


def mutated(data: bytes) -> bytes:
    """As they are: every byte is a choice."""
    return data

"""What frames carried, counted for a session."""

from dataclasses import astuple, dataclass

from wire.coding.lossy import FORMATS
from wire.messages import Codec, Payload, Reply


@dataclass(frozen=True, slots=True)
class Carried:
    """Bytes of frames, both ways, what coded rows saved of them, and how many rows were rounded."""

    up: int = 0
    down: int = 0
    saved_up: int = 0
    saved_down: int = 0
    """Bytes that coded rows took less than RAW ones."""
    lossy_up: int = 0
    lossy_down: int = 0
    """Rows in a codec that rounds them."""

    def __add__(self, more: "Carried") -> "Carried":
        """Both together."""
        return Carried(*(a + b for a, b in zip(astuple(self), astuple(more), strict=True)))

    def since(self, before: "Carried") -> "Carried":
        """What came after this much."""
        return Carried(*(a - b for a, b in zip(astuple(self), astuple(before), strict=True)))


def saved_up(raw: Payload, coded: Payload, codec: Codec, num_rows: int) -> Carried:
    """Of rows that go up, before they are framed."""
    return Carried(saved_up=len(raw) - len(coded), lossy_up=num_rows if codec in FORMATS else 0)


def came_down(reply: Reply, raw: Reply, num_bytes: int) -> Carried:
    """Of a Reply in a frame of so many bytes, whose rows have been made `raw`."""
    return Carried(
        down=num_bytes,
        saved_down=len(raw.payload) - len(reply.payload),
        lossy_down=reply.num_rows if reply.codec in FORMATS else 0,
    )

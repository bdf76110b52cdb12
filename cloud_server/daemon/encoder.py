"""Messages to the frames that devices get: long replies are coded elsewhere, when it is time."""

from functools import partial

from cloud_server.daemon.connection import Later
from cloud_server.daemon.metrics import Metrics
from process.world import Aside
from wire.codec import encode
from wire.coding.lossy import FORMATS
from wire.coding.row_codecs import ASIDE_BYTES, RowCodecs
from wire.messages import Codec, Message, Reply


class Encoder:
    """Makes frames and counts their bytes."""

    def __init__(self, codecs: RowCodecs, metrics: Metrics, aside: Aside) -> None:
        self._codecs = codecs
        self._metrics = metrics
        self._aside = aside

    def frame(self, message: Message, codec: Codec) -> bytes | Later:
        """The frame of a message, or how to make that of a Reply of many rows, which takes time."""
        if codec is Codec.RAW or not isinstance(message, Reply):
            return self._encoded(message, codec)
        if len(message.payload) <= ASIDE_BYTES:
            return self._encoded(message, codec)
        frame = partial(self._encoded, message, codec)
        return Later(lambda: self._aside(frame), len(message.payload))

    def _encoded(self, message: Message, codec: Codec) -> bytes:
        if isinstance(message, Reply):
            raw_bytes = len(message.payload)
            message = self._codecs.coded_reply(message, codec)
            self._metrics.sent_saved_bytes.inc(raw_bytes - len(message.payload))
            self._metrics.sent_lossy_tokens.inc(message.num_rows * (message.codec in FORMATS))
        frame = encode(message)
        self._metrics.sent_bytes.inc(len(frame))
        return frame

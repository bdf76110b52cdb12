"""The head of an adapter that drafts blocks, on ONNX Runtime."""

from collections.abc import Callable

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from device_runtime.engines.engine import Rows
from submodels.onnx.files import BEFORE, EMBEDDED, INNER, LOGITS, NEW_STATE, ROWS, STATE

Embed = Callable[[NDArray[np.int64]], Rows]


class OnnxBlockHead:
    """A `BlockHead` of two graphs: one for all places at once, one for each place behind another.

    `embed` maps token ids `[T]` to rows `[T, H]`.
    """

    def __init__(
        self,
        head: onnxruntime.InferenceSession,
        step: onnxruntime.InferenceSession,
        embed: Embed,
        block_size: int,
    ) -> None:
        self.block_size = block_size
        self.head = head
        self.step = step
        self.embed = embed
        sizes = {value.name: value.shape for value in step.get_inputs()}
        self.state_size = int(sizes[STATE][-1])

    def begin(self, estimates: Rows) -> "_OnnxBlock":
        return _OnnxBlock(self, estimates)


class _OnnxBlock:
    def __init__(self, parts: OnnxBlockHead, estimates: Rows) -> None:
        self._parts = parts
        self._logits, self._inner = parts.head.run([LOGITS, INNER], {ROWS: estimates})
        self._state: Rows = np.zeros((1, parts.state_size), np.float32)
        self._place = 0

    def next(self, token_id: int | None) -> Rows:
        place = slice(self._place, self._place + 1)
        self._place += 1
        logits: Rows = self._logits[place]
        if token_id is not None:
            rows = {
                BEFORE: logits,
                INNER: self._inner[place],
                EMBEDDED: self._parts.embed(np.array([token_id], np.int64)),
                STATE: self._state,
            }
            logits, self._state = self._parts.step.run([LOGITS, NEW_STATE], rows)
        row: Rows = logits[0]
        return row

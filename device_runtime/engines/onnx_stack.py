"""Decoder layers under ONNX Runtime, with each sequence's caches bound in place.

A run costs a few tens of microseconds beyond its arithmetic: caches stay bound per sequence,
rows of short runs go through fixed buffers, and positions are numbers written into arrays that
ONNX Runtime reads where they lie.

That holds on the CPU. A provider with memory of its own copies an input there when it is bound, and
would read old rows and caches for ever; so elsewhere everything is bound again before each run.
Keys, values and rows stay in the host's memory: forks, truncations and growth are the same.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from device_runtime.engines.attention_memory import KvBuffers, KvShape, RotaryTables
from device_runtime.engines.engine import Rows
from device_runtime.engines.onnx_sessions import runs_in_place
from submodels.manifest import ModelShape
from submodels.onnx.files import (
    LAST_POSITION,
    NEW_ROWS,
    NUM_POSITIONS,
    ROWS,
    angle_names,
    past_names,
    present_names,
)

# Runs up to this many rows (drafts, verifications) reuse buffers; above, a copy costs nothing.
_MAX_SHORT_ROWS = 16
# Attention may hold the scores of all heads, rows and keys of a run at once (older versions of
# ONNX Runtime do): 64 MiB of float32.
_MAX_SCORES = 1 << 24
_MIN_ROWS_PER_RUN = 16


def rows_per_run(num_heads: int, num_positions: int) -> int:
    """How many rows one run may take when they attend to `num_positions`."""
    return max(_MIN_ROWS_PER_RUN, _MAX_SCORES // (num_heads * num_positions))


@dataclass(frozen=True, slots=True)
class _Frame:
    """Memory for the rows that go into one run, and for those `[T, H]` that come out of it."""

    rows: Rows
    new_rows: Rows


class OnnxStack:
    """The session of a stack of decoder layers, and what all its sequences share."""

    def __init__(
        self, session: onnxruntime.InferenceSession, shape: ModelShape, rotary: RotaryTables
    ) -> None:
        sizes = {value.name: value.shape for value in session.get_inputs()}
        pasts = [past_names(index)[0] for index in range(shape.num_layers)]
        layers = tuple((sizes[past][1], sizes[past][3]) for past in pasts if past in sizes)
        self.session = session
        self.reads_in_place = runs_in_place(session)
        self.rotary = rotary
        self.kv_shape = KvShape(layers, rotary.max_positions)
        self.last_position = np.zeros(1, np.int32)
        self.num_positions = np.zeros((), np.int32)
        self.num_attention_heads = shape.num_attention_heads
        self.hidden_size = shape.hidden_size
        angles = [angle_names(rope)[0] for rope in range(len(shape.ropes))]
        self.turning = {rope: sizes[name][1] for rope, name in enumerate(angles) if name in sizes}
        """By which of the model's rotary embeddings its layers turn, and by how many angles."""
        self.short_frames = {
            num_rows: _Frame(
                np.zeros((num_rows, sizes[ROWS][-1]), np.float32),
                np.zeros((num_rows, shape.hidden_size), np.float32),
            )
            for num_rows in range(1, _MAX_SHORT_ROWS + 1)
        }

    def new_cache(self) -> "OnnxStackCache":
        """An empty cache."""
        return OnnxStackCache(self, KvBuffers(self.kv_shape))


class OnnxStackCache:
    """A `StackCache`: one sequence's buffers, bound to the session of its stack."""

    def __init__(self, stack: OnnxStack, buffers: KvBuffers) -> None:
        self._stack = stack
        self._buffers = buffers
        self._binding = stack.session.io_binding()
        self._frame: _Frame | None = None
        self._bind_positions()
        self._bind_buffers()

    @property
    def num_tokens(self) -> int:
        """Positions held; setting a smaller number is the truncation."""
        return self._buffers.num_tokens

    @num_tokens.setter
    def num_tokens(self, num_tokens: int) -> None:
        self._buffers.num_tokens = num_tokens

    def run(self, rows: Rows, position: int) -> Rows:
        num_rows = rows.shape[0]
        if self._buffers.reserve(position, position + num_rows):
            self._bind_buffers()
        if num_rows > _MAX_SHORT_ROWS:
            new_rows = self._run_long(np.ascontiguousarray(rows), position)
        else:
            frame = self._stack.short_frames[num_rows]
            frame.rows[:] = rows
            self._run_frame(frame, position + num_rows)
            new_rows = frame.new_rows.copy()
        self._buffers.num_tokens = position + num_rows
        return new_rows

    def fork(self, num_tokens: int) -> "OnnxStackCache":
        return OnnxStackCache(self._stack, self._buffers.fork(num_tokens))

    def _run_long(self, rows: Rows, position: int) -> Rows:
        new_rows = np.empty((rows.shape[0], self._stack.hidden_size), np.float32)
        step = rows_per_run(self._stack.num_attention_heads, position + rows.shape[0])
        for start in range(0, rows.shape[0], step):
            piece = slice(start, start + step)
            frame = _Frame(rows[piece], new_rows[piece])
            self._run_frame(frame, position + start + frame.rows.shape[0])
        # The binding would keep these rows in memory until the next run.
        self._bind_frame(self._stack.short_frames[1])
        return new_rows

    def _run_frame(self, frame: _Frame, num_positions: int) -> None:
        self._stack.last_position[0] = num_positions - 1
        self._stack.num_positions[()] = num_positions
        if not self._stack.reads_in_place:
            self._bind_positions()
            self._bind_buffers()
            self._bind_frame(frame)
        elif self._frame is not frame:
            self._bind_frame(frame)
        self._stack.session.run_with_iobinding(self._binding)

    def _bind_positions(self) -> None:
        self._bind_input(LAST_POSITION, self._stack.last_position)
        self._bind_input(NUM_POSITIONS, self._stack.num_positions)

    def _bind_frame(self, frame: _Frame) -> None:
        self._bind_input(ROWS, frame.rows[None])
        self._bind_output(NEW_ROWS, frame.new_rows[None])
        self._frame = frame

    def _bind_buffers(self) -> None:
        kv_shape, arrays = self._stack.kv_shape, self._buffers.arrays
        for index in range(kv_shape.num_layers):
            layer_arrays = arrays[2 * index : 2 * index + 2]
            names = zip(past_names(index), present_names(index), layer_arrays, strict=True)
            for past, present, array in names:
                self._bind_input(past, array)
                self._bind_output(present, array)
        for rope, width in self._stack.turning.items():
            tables = self._stack.rotary.up_to(self._buffers.capacity, width, rope)
            for name, table in zip(angle_names(rope), tables, strict=True):
                self._bind_input(name, table)

    def _bind_input(self, name: str, array: NDArray[Any]) -> None:
        # The value lies on the array's own memory, which stack, buffers or frame keep alive; what a
        # provider with memory of its own reads is a copy, made here.
        value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        self._binding.bind_ortvalue_input(name, value)

    def _bind_output(self, name: str, array: NDArray[Any]) -> None:
        value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        self._binding.bind_ortvalue_output(name, value)

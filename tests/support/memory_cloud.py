"""The cloud's real core with a middle made of integers, for networks in memory and jumping time."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from cloud_server.core.actions import (
    Action,
    CloseConnection,
    ConnectionId,
    Identity,
    OpenSequence,
    Refusal,
    Send,
    SequenceHandle,
    Step,
    StepOutcome,
    StepWork,
)
from cloud_server.core.core import CloudCore, CoreConfig
from device_runtime.link.config import LinkConfig
from tests.support.fake_cloud import FINGERPRINT, MODEL, SECRET, FakeCloud
from tests.support.fake_model import HIDDEN_SIZE, MAX_CONTEXT_TOKENS, FakeMiddle
from wire.codec import encode
from wire.messages import Dtype, Want
from wire.numbers import pack_rows, unpack_rows

CONFIG = CoreConfig(
    fingerprint=FINGERPRINT,
    first_layer=MODEL.first_layer,
    num_layers=MODEL.num_layers,
    hidden_size=HIDDEN_SIZE,
    dtype=Dtype.FP32,
    capacity_tokens=4096,
    max_context_tokens=MAX_CONTEXT_TOKENS,
    credential=SECRET,
    max_frame_tokens=32,
    credit_window_tokens=128,
    step_budget_tokens=16,
    verify_tokens=8,
)

_TICK_S = 1.0


class CoreCloud:
    """Serves sockets in memory; a step takes `fixed_s`, and `row_s` more for each row."""

    def __init__(self, fixed_s: float = 0.005, row_s: float = 0.0, **changes: Any) -> None:
        self._config = replace(CONFIG, **changes)
        self.core = CloudCore(self._config)
        self._clock = asyncio.get_running_loop().time
        self._fixed_s = fixed_s
        self._row_s = row_s
        self._middles: dict[SequenceHandle, FakeMiddle] = {}
        self._sockets: dict[ConnectionId, Any] = {}
        self._num_connected = 0
        self._is_stepping = False
        self.refuses: Callable[[StepWork], Refusal | None] = lambda item: None
        self._ticking = asyncio.create_task(self._tick())

    def config(self, **changes: object) -> LinkConfig:
        """How a device reaches this cloud."""
        return FakeCloud().config(**changes)

    async def serve(self, socket: Any) -> None:
        """Talk on one socket until it is gone."""
        self._num_connected += 1
        number = ConnectionId(self._num_connected)
        self._sockets[number] = socket
        self._perform(self.core.connect(number, self._clock(), Identity("a device")))
        try:
            async for packet in socket:
                self._perform(self.core.receive_frame(number, packet.data, self._clock()))
        finally:
            del self._sockets[number]
            self._perform(self.core.disconnect(number, self._clock()))

    def forget(self) -> None:
        """Be another cloud, which knows no session; for when no socket is open."""
        self.core = CloudCore(self._config)
        self._middles.clear()
        self._is_stepping = False

    async def stop(self) -> None:
        """Look at no deadlines any more."""
        self._ticking.cancel()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self._perform(self.core.tick(self._clock()))

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            socket = self._sockets.get(action.connection)
            match action:
                case Send() if socket is not None:
                    socket.give(encode(action.message))
                case CloseConnection() if socket is not None:
                    socket.end()
        if not self._is_stepping and (step := self.core.next_step(self._clock())) is not None:
            self._is_stepping = True
            seconds = self._fixed_s + self._row_s * step.num_tokens
            results = self._run(step)
            outcome = StepOutcome(results, seconds, ())
            done = (self.core, step, outcome)
            asyncio.get_running_loop().call_later(seconds, self._done, *done)

    def _done(self, core: CloudCore, step: Step, outcome: StepOutcome) -> None:
        if core is not self.core:
            return
        self._is_stepping = False
        self._perform(self.core.step_done(step, outcome, self._clock()))

    def _run(self, step: Step) -> tuple[bytes | Refusal, ...]:
        for command in step.commands:
            if isinstance(command, OpenSequence):
                source = self._middles.get(command.fork_of) if command.fork_of else None
                middle = source.fork(command.fork_tokens) if source else FakeMiddle()
                self._middles[command.handle] = middle
            else:
                self._middles.pop(command.handle, None)
        return tuple(self.refuses(item) or self._forward(item) for item in step.items)

    def _forward(self, item: StepWork) -> bytes:
        rows = unpack_rows(item.payload, item.num_rows, HIDDEN_SIZE, Dtype.FP32)
        deep = self._middles[item.handle].step(rows.astype(np.float32), item.position)
        wanted = {Want.NONE: deep[:0], Want.LAST: deep[-1:], Want.ALL: deep}[item.want]
        return bytes(pack_rows(wanted, Dtype.FP32))

"""A production cloud without threads or network: its daemon over sockets in memory.

Only the engine's thread has a twin, and its middle is made of integers.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloud_server.config import CloudConfig
from cloud_server.core.actions import Identity, Refusal, Step, StepOutcome, StepWork
from cloud_server.core.config import CoreConfig
from cloud_server.daemon.daemon import CloudDaemon, EngineRhythm, NamesNow, Patience
from cloud_server.daemon.device_socket import DeviceSocket, Guest
from cloud_server.daemon.metrics import Metrics
from cloud_server.daemon.reception import make_reception
from cloud_server.daemon.step_runner import StepRunner
from cloud_server.daemon.steps import StepListener
from cloud_server.daemon.turns import Turns
from cloud_server.engines.engine import EngineLostError, Rows, SequenceId, StepItem
from device_runtime.link.link import Link
from process.sockets.socket import Socket
from tests.support.fake_cloud import FINGERPRINT, MODEL, SECRET, FakeCloud, link_to
from tests.support.fake_model import HIDDEN_SIZE, MAX_CONTEXT_TOKENS, FakeCopy, FakeMiddle
from tests.support.memory_link import MemoryNetwork
from wire.messages import Dtype, Want

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
    max_lanes=16,
)


class IntegerMiddle:
    """A middle engine of `FakeMiddle`s."""

    hidden_size = HIDDEN_SIZE
    dtype = Dtype.FP32
    capacity_tokens = CONFIG.capacity_tokens
    block_tokens = 1
    takes_taps = False
    max_context_tokens = MAX_CONTEXT_TOKENS

    def __init__(self) -> None:
        self.sequences: dict[SequenceId, FakeMiddle] = {}
        self._num_opened = 0

    def open(
        self, max_tokens: int, fork_of: SequenceId | None = None, fork_tokens: int = 0
    ) -> SequenceId:
        self._num_opened += 1
        sequence = SequenceId(self._num_opened)
        source = None if fork_of is None else self.sequences[fork_of].fork(fork_tokens)
        self.sequences[sequence] = source or FakeMiddle()
        return sequence

    def step(self, batch: Sequence[StepItem]) -> list[Rows]:
        return [self._run(item) for item in batch]

    def release(self, sequence: SequenceId) -> None:
        del self.sequences[sequence]

    def save(self, sequence: SequenceId, begin: int, end: int) -> FakeCopy:
        return self.sequences[sequence].save(begin, end)

    def restore(self, sequence: SequenceId, copy: FakeCopy, begin: int, end: int) -> FakeCopy:
        self.sequences[sequence].restore(copy, begin, end)
        return copy

    def drop(self, copy: FakeCopy) -> FakeCopy:
        return copy

    def _run(self, item: StepItem) -> Rows:
        deep = self.sequences[item.sequence].step(item.rows, item.position)
        return {Want.NONE: deep[:0], Want.LAST: deep[-1:], Want.ALL: deep}[item.want]


class TimedSteps:
    """See `Steps`. A step takes `fixed_s` and `row_s` more for each row, and loading `load_s`.

    `refuses` says which items of a step end their session, and `breaks` which steps the engine.
    """

    def __init__(self, fixed_s: float, row_s: float, load_s: float) -> None:
        self.refuses: Callable[[StepWork], Refusal | None] = lambda item: None
        self.breaks: Callable[[Step], Exception | None] = lambda step: None
        self._loop = asyncio.get_running_loop()
        self._seconds = (fixed_s, row_s, load_s)
        self._listener: StepListener | None = None
        self._load()

    def listen(self, listener: StepListener) -> None:
        self._listener = listener

    def submit(self, step: Step) -> None:
        listener = self._listener
        assert listener is not None
        fixed_s, row_s, load_s = self._seconds
        seconds = fixed_s + row_s * step.num_tokens
        match self.breaks(step):
            case EngineLostError() as error:
                self._loop.call_later(seconds, listener.on_engine_lost, str(error))
                self._loop.call_later(seconds + load_s, self._is_back, listener)
            case Exception() as error:
                self._loop.call_later(seconds, listener.on_step_failed, step, str(error))
            case None:
                outcome = self._outcome(step, seconds)
                self._loop.call_later(seconds, listener.on_step_done, step, outcome)

    def _outcome(self, step: Step, seconds: float) -> StepOutcome:
        outcome = self._runner.run(step)
        pairs = zip(step.items, outcome.results, strict=True)
        results = tuple(self.refuses(item) or result for item, result in pairs)
        return replace(outcome, results=results, seconds=seconds)

    def _is_back(self, listener: StepListener) -> None:
        self._load()
        listener.on_engine_ready()

    def _load(self) -> None:
        self._runner = StepRunner(IntegerMiddle(), self._loop.time, Dtype.FP32)


class MemoryCloud:
    """Serves sockets in memory; `changes` are of `CONFIG`, and a device has so many connections."""

    def __init__(
        self,
        fixed_s: float = 0.005,
        row_s: float = 0.0,
        load_s: float = 1.0,
        patience: Patience | None = None,
        connections: int | None = 1,
        names: Callable[[], NamesNow] | None = None,
        **changes: Any,
    ) -> None:
        self._clock = asyncio.get_running_loop().time
        self.network = MemoryNetwork(self)
        self._num_connections = connections
        config = CloudConfig(Path("unused"), secret=SECRET.decode())
        self._reception = make_reception(config, self._clock)
        self.steps = TimedSteps(fixed_s, row_s, load_s)
        self.daemon = CloudDaemon(
            replace(CONFIG, **changes),
            self.steps,
            Metrics(CONFIG.verify_tokens),
            patience or Patience(),
            EngineRhythm(load_s=load_s),
            self._clock,
            random.Random(4),
            names=names,
        )

    async def start(self) -> None:
        """It runs as soon as it is made."""

    def make_link(self, **changes: object) -> Link:
        """A device's link to it, not yet started."""
        changes.setdefault("connections", self._num_connections)
        return link_to(FakeCloud().config(**changes), self.network)

    async def serve(self, socket: Socket) -> None:
        """One device's stay."""
        guest = Guest(Identity("a device"), self._clock())
        turns = Turns(self._reception.shares, guest.identity)
        await DeviceSocket(self.daemon, socket, guest, self._reception, turns).serve()

    async def stop(self) -> None:
        """Tell every device to go."""
        await self.daemon.shut_down()

"""A cloud under virtual time: the production daemon over sockets in memory, with a middle engine
that knows what every row must be and takes a step's time."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.sim.world.text import RowNumbers
from bench.sim.world.times import NO_OVERHEADS, Overheads, StepTime
from bench.sim.world.workers import SimPipeline
from cloud_server.core.actions import (
    Identity,
    OpenSequence,
    ReleaseSequence,
    SequenceHandle,
    Step,
    StepWork,
)
from cloud_server.core.config import CoreConfig
from cloud_server.daemon.connection import Connection
from cloud_server.daemon.daemon import CloudDaemon, EngineRhythm, Patience
from cloud_server.daemon.metrics import Metrics
from process.sockets.memory import MemorySocket
from wire.messages import Dtype, Fault, Payload, Want

ROW_DTYPE = Dtype.FP16
ITEM_BYTES = 2

FINGERPRINT = b"simulated-model-simulated-model-"
FIRST_LAYER, NUM_LAYERS = 1, 1

_LAST_WORDS_S = 2.0


@dataclass(frozen=True, slots=True)
class CloudSpec:
    """One replica: engine times, pipeline, the core's settings, and bytes of a row on the wire."""

    step_time: StepTime
    core: CoreConfig
    row_bytes: int
    num_stages: int = 1
    overheads: Overheads = NO_OVERHEADS

    @property
    def hidden_size(self) -> int:
        """Numbers of a row, as rows are in this simulation."""
        return self.row_bytes // ITEM_BYTES


def core_config(
    capacity_tokens: int, max_context_tokens: int, row_bytes: int, **settings: int
) -> CoreConfig:
    """The production core's settings, the others as they are by default."""
    config = CoreConfig(
        fingerprint=FINGERPRINT,
        first_layer=FIRST_LAYER,
        num_layers=NUM_LAYERS,
        hidden_size=row_bytes // ITEM_BYTES,
        dtype=ROW_DTYPE,
        capacity_tokens=capacity_tokens,
        max_context_tokens=max_context_tokens,
    )
    return replace(config, **settings)  # type: ignore[arg-type]


class SimMiddle:
    """Middle layers that know of every row its number, made of all tokens up to its own."""

    def __init__(self, row_bytes: int) -> None:
        self._row_bytes = row_bytes
        self._sequences: dict[SequenceHandle, RowNumbers] = {}

    @property
    def num_open(self) -> int:
        """Sequences that were not released."""
        return len(self._sequences)

    def run(self, step: Step) -> tuple[Payload, ...]:
        """The wanted rows of each item, in the wire's number format."""
        for command in step.commands:
            match command:
                case OpenSequence():
                    self._open(command)
                case ReleaseSequence():
                    del self._sequences[command.handle]
        return tuple(self._deep(item) for item in step.items)

    def _open(self, command: OpenSequence) -> None:
        forked = None if command.fork_of is None else self._sequences[command.fork_of]
        numbers = RowNumbers() if forked is None else forked.fork(command.fork_tokens)
        self._sequences[command.handle] = numbers

    def _deep(self, item: StepWork) -> Payload:
        stride = self._row_bytes // ITEM_BYTES
        token_ids = memoryview(item.payload).cast("H")[::stride].tolist()
        numbers = self._sequences[item.handle].put(token_ids, item.position)
        wanted = {Want.NONE: numbers[:0], Want.LAST: numbers[-1:], Want.ALL: numbers}[item.want]
        deep = bytearray(len(wanted) * self._row_bytes)
        firsts = memoryview(deep).cast("H")
        for index, number in enumerate(wanted):
            firsts[index * stride] = number
        return deep


@dataclass(frozen=True, slots=True)
class Line:
    """A device's connection: its own end and the cloud's."""

    near: MemorySocket
    far: MemorySocket

    def cut(self) -> None:
        """Both ends learn at once that it is gone; what was under way does not arrive."""
        self.near.end()
        self.far.end()


class Replica:
    """One cloud, which can be killed and comes back knowing nothing."""

    def __init__(self, spec: CloudSpec) -> None:
        self._spec = spec
        self._loop = asyncio.get_running_loop()
        self._lines: set[Line] = set()
        self._steps: list[tuple[int, float]] = []
        self.is_up = True
        self._start()

    @property
    def load(self) -> tuple[int, int]:
        """What a balancer compares: sessions, then sockets."""
        figures = self.daemon.figures()
        num_attached = figures.num_sessions - figures.num_detached_sessions
        return num_attached, len(self._lines)

    @property
    def steps(self) -> list[tuple[int, float]]:
        """Rows and seconds of its steps, in order."""
        return [*self._steps, *self._pipeline.steps]

    def accept(self, line: "Line", identity: str) -> "asyncio.Task[None]":
        """Serve a device for as long as its line lasts."""
        self._lines.add(line)
        return self._loop.create_task(self._serve(line, Identity(identity)))

    async def kill(self, down_s: float) -> None:
        """Be gone at once, with every session, and start again after a while."""
        self.is_up = False
        self._pipeline.stop()
        for line in list(self._lines):
            line.cut()
        await self.daemon.shut_down()
        self._steps += self._pipeline.steps
        await asyncio.sleep(down_s)
        self._start()
        self.is_up = True

    def cut_all(self) -> None:
        """Lose every socket, as where a router starts again; sessions stay for a while."""
        for line in list(self._lines):
            line.cut()

    def _start(self) -> None:
        spec, clock = self._spec, self._loop.time
        self.middle = SimMiddle(spec.row_bytes)
        hand_over_s = spec.overheads.hand_over_s
        self._pipeline = SimPipeline(self.middle.run, spec.step_time, spec.num_stages, hand_over_s)
        self.daemon = CloudDaemon(
            spec.core,
            self._pipeline,
            Metrics(spec.core.verify_tokens),
            Patience(),
            EngineRhythm(spec.num_stages),
            clock,
        )

    async def _serve(self, line: "Line", identity: Identity) -> None:
        daemon, socket = self.daemon, line.far
        connection = Connection(socket, daemon.send_limits, _Host())
        number = daemon.connect(connection, identity)
        try:
            while (frame := await socket.receive()) is not None:
                daemon.receive(number, frame)
        finally:
            self._lines.discard(line)
            daemon.disconnect(number)
            await connection.end(_LAST_WORDS_S)


class _Host:
    """Nobody listens for what the core decides about a device."""

    def greeted(self) -> None:
        """See `Host`."""

    def refused(self, fault: Fault) -> None:
        """See `Host`."""


def least_loaded(replicas: Sequence[Replica]) -> Replica:
    """Where a device's socket goes, to stay: the fewest sessions, then sockets, then the first.

    Raises:
        ConnectionRefusedError: none is up.
    """
    up = [replica for replica in replicas if replica.is_up]
    if not up:
        raise ConnectionRefusedError("no cloud is up")
    return min(up, key=lambda replica: replica.load)

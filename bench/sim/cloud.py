"""A cloud under virtual time: the production daemon over sockets in memory, with a middle engine
that knows what every row must be and takes a step's time."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.sim.world.coding import NO_SIM_CODING, CodecTimes, SimCoding
from bench.sim.world.text import RowNumbers
from bench.sim.world.times import NO_OVERHEADS, Overheads, StepTime
from cloud_server.core.actions import (
    DropCopy,
    Identity,
    OpenSequence,
    ReleaseSequence,
    RestoreSequence,
    SaveSequence,
    SequenceHandle,
    Step,
    StepOutcome,
    StepWork,
)
from cloud_server.core.config import CoreConfig
from cloud_server.core.names.people import Person
from cloud_server.daemon.connection import Connection
from cloud_server.daemon.daemon import CloudDaemon, EngineRhythm, Patience
from cloud_server.daemon.metrics import Metrics
from cloud_server.daemon.steps import StepListener
from process.sockets.memory import MemorySocket
from wire.messages import Dtype, Fault, Payload, Want

_ITEM_BYTES = 2
_LAST_WORDS_S = 2.0


@dataclass(frozen=True, slots=True)
class CloudSpec:
    """One replica: engine times, pipeline, and the core's settings."""

    step_time: StepTime
    core: CoreConfig
    num_stages: int = 1
    overheads: Overheads = NO_OVERHEADS
    codec: CodecTimes | None = None


def core_config(
    capacity_tokens: int, max_context_tokens: int, row_bytes: int, **settings: int
) -> CoreConfig:
    """The production core's settings, the others as they are by default.

    Rows are of numbers of 16 bits, whatever they are in the model; a row has its bytes.
    """
    config = CoreConfig(
        fingerprint=b"simulated-model-simulated-model-",
        first_layer=1,
        num_layers=1,
        hidden_size=row_bytes // _ITEM_BYTES,
        dtype=Dtype.FP16,
        capacity_tokens=capacity_tokens,
        max_context_tokens=max_context_tokens,
    )
    return replace(config, **settings)  # type: ignore[arg-type]


class SimMiddle:
    """Middle layers that know of every row its number, made of all tokens up to its own."""

    def __init__(self, row_items: int) -> None:
        self._row_items = row_items
        self.sequences: dict[SequenceHandle, RowNumbers] = {}
        self._copies: dict[SequenceHandle, RowNumbers] = {}

    def run(self, step: Step) -> tuple[Payload, ...]:
        """The wanted rows of each item, in the wire's number format."""
        for command in step.commands:
            match command:
                case OpenSequence():
                    self._open(command)
                case ReleaseSequence():
                    del self.sequences[command.handle]
                case SaveSequence():
                    self._save(command)
                case RestoreSequence():
                    self._restore(command)
                case DropCopy():
                    self._copies.pop(command.handle, None)
        return tuple(self._deep(item) for item in step.items)

    def _open(self, command: OpenSequence) -> None:
        forked = None if command.fork_of is None else self.sequences[command.fork_of]
        numbers = RowNumbers() if forked is None else forked.fork(command.fork_tokens)
        self.sequences[command.handle] = numbers

    def _save(self, command: SaveSequence) -> None:
        self._copies[command.handle] = self.sequences[command.handle].fork(command.end)
        if command.is_last:
            del self.sequences[command.handle]

    def _restore(self, command: RestoreSequence) -> None:
        self.sequences[command.handle] = self._copies[command.source].fork(command.end)

    def _deep(self, item: StepWork) -> Payload:
        stride = self._row_items
        token_ids = memoryview(item.payload).cast("H")[::stride].tolist()
        numbers = self.sequences[item.handle].put(token_ids, item.position)
        wanted = {Want.NONE: numbers[:0], Want.LAST: numbers[-1:], Want.ALL: numbers}[item.want]
        deep = bytearray(len(wanted) * stride * _ITEM_BYTES)
        firsts = memoryview(deep).cast("H")
        for index, number in enumerate(wanted):
            firsts[index * stride] = number
        return deep


class SimPipeline:
    """The `Steps` of a cloud: they go through stages, in time, each of which takes an equal share.

    The rows and seconds of those with rows are put behind `told`.
    """

    def __init__(self, spec: CloudSpec, middle: SimMiddle, told: list[tuple[int, float]]) -> None:
        self._spec = spec
        self._middle = middle
        self._told = told
        self._stage_free_s = [0.0] * spec.num_stages
        self._loop = asyncio.get_running_loop()
        self._listener: StepListener | None = None
        self._under_way: deque[tuple[Step, StepOutcome]] = deque()
        self._is_lost = False

    def listen(self, listener: StepListener) -> None:
        self._listener = listener

    def submit(self, step: Step) -> None:
        now = self._loop.time()
        seconds = self._spec.step_time.of(step) if step.items else 0.0
        done_s = self._through_the_stages(now, seconds)
        outcome = StepOutcome(self._middle.run(step), done_s - now)
        self._under_way.append((step, outcome))
        self._loop.call_at(done_s, self._done)

    def stop(self) -> None:
        """Be gone: nothing is told any more."""
        self._under_way.clear()
        self._is_lost = True

    def _through_the_stages(self, now: float, seconds: float) -> float:
        """When the last stage is done with a step that is given out now."""
        share_s = seconds / len(self._stage_free_s)
        done_s = now
        for stage, busy_until_s in enumerate(self._stage_free_s):
            hand_over_s = self._spec.overheads.hand_over_s if stage else 0.0
            done_s = max(done_s + hand_over_s, busy_until_s) + share_s
            self._stage_free_s[stage] = done_s
        return done_s

    def _done(self) -> None:
        if self._is_lost:
            return
        step, outcome = self._under_way.popleft()
        if step.items:
            self._told.append((step.num_tokens, outcome.seconds))
        assert self._listener is not None, "the daemon listens"
        self._listener.on_step_done(step, outcome)


class Replica:
    """One cloud, which can be killed and comes back knowing nothing."""

    def __init__(self, spec: CloudSpec) -> None:
        self._spec = spec
        self._loop = asyncio.get_running_loop()
        self._sockets: list[MemorySocket] = []
        self.steps: list[tuple[int, float]] = []
        """Rows and seconds, in order."""
        self._start()

    @property
    def load(self) -> tuple[int, int]:
        """What a balancer compares: sessions, then sockets."""
        figures = self.daemon.figures()
        num_attached = figures.num_sessions - figures.num_detached_sessions
        return num_attached, len(self._sockets)

    def accept(self, socket: MemorySocket, identity: str) -> "asyncio.Task[None]":
        """Serve a device for as long as its socket lasts."""
        self._sockets.append(socket)
        return self._loop.create_task(self._serve(socket, Identity(identity)))

    async def kill(self, down_s: float) -> None:
        """Be gone at once, with every session, and start again after a while."""
        self.is_up = False
        self._pipeline.stop()
        self.cut_all()
        await self.daemon.shut_down()
        await asyncio.sleep(down_s)
        self._start()

    def cut_all(self) -> None:
        """Lose every socket, as where a router starts again; sessions stay for a while."""
        for socket in self._sockets:
            socket.cut()

    def _start(self) -> None:
        spec = self._spec
        self.is_up = True
        self.middle = SimMiddle(spec.core.hidden_size)
        self._pipeline = SimPipeline(spec, self.middle, self.steps)
        coding = NO_SIM_CODING if spec.codec is None else SimCoding(spec.codec)
        self.daemon = CloudDaemon(
            replace(spec.core, codecs=coding.codecs),
            self._pipeline,
            Metrics(spec.core.verify_tokens),
            Patience(),
            EngineRhythm(spec.num_stages),
            self._loop.time,
            aside=coding.aside,
            make_codecs=coding.make,
        )

    async def _serve(self, socket: MemorySocket, identity: Identity) -> None:
        daemon = self.daemon
        connection = Connection(socket, daemon.send_limits, _Host())
        number = daemon.connect(connection, identity)
        try:
            while (frame := await socket.receive()) is not None:
                daemon.receive(number, frame)
        finally:
            self._sockets.remove(socket)
            daemon.disconnect(number)
            await connection.end(_LAST_WORDS_S)


class _Host:
    """Nobody listens for what the core decides about a device."""

    def greeted(self, is_lane: bool, person: Person) -> None:
        pass

    @property
    def where(self) -> str:
        """Nobody reads of it."""
        return ""

    def limited(self) -> None:
        pass

    def refused(self, fault: Fault) -> None:
        pass


def least_loaded(replicas: Sequence[Replica]) -> Replica:
    """Where a device's socket goes, to stay: the fewest sessions, then sockets, then the first.

    Raises:
        ConnectionRefusedError: none is up.
    """
    up = [replica for replica in replicas if replica.is_up]
    if not up:
        raise ConnectionRefusedError("no cloud is up")
    return min(up, key=lambda replica: replica.load)

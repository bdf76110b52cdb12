"""Devices that decode and one that sends prompts, before the production core, on any clock.

A device is no more than a few times and counts. Frames come when they are due, also while a step
runs, and the next step is given out before Replies go, as in the daemon.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.measures import percentile
from bench.steps.worlds import CONTEXT, World
from cloud_server.core.actions import Action, ConnectionId, Identity, Send, Step
from cloud_server.core.config import CoreConfig
from cloud_server.core.core import CloudCore
from wire.messages import (
    Close,
    Codec,
    Fault,
    Hello,
    Message,
    Open,
    Reply,
    SessionId,
    States,
    Want,
)

_ROUNDS_CONTEXT = 64
"""Within so many positions a decoding session's text grows, and then begins anew: rounds of later
take what rounds of before took."""

_ACCEPTED = 3
"""By which it grows with each round."""

_SETTLE_S = 0.5
"""After which those who decode are in their rounds and known to the core, or no longer."""


@dataclass(frozen=True, slots=True)
class Load:
    """Who asks for what. `uplink_rows_per_s` None: the whole prompt is there at once.

    Each absence lasts `away_s`, or up to `away_spread` of it more or less.
    """

    num_decoders: int = 8
    round_rows: int = 5
    cached_rows: int = 512
    """Of a decoding session when it begins."""
    away_s: float = 0.0
    away_spread: float = 0.0
    prompt_rows: int = 2048
    frame_rows: int = 256
    uplink_rows_per_s: float | None = None


@dataclass(slots=True)
class Measured:
    """Seconds: of decoders' rounds from reply to reply, of prompts, and of the engine's steps."""

    rounds_s: list[float] = field(default_factory=list)
    prompts_s: list[float] = field(default_factory=list)
    busy_s: float = 0.0
    wall_s: float = 0.0


class Bench:
    """A core with its devices; `payload` is of as many rows as any frame, in the core's format."""

    def __init__(self, settings: CoreConfig, world: World, load: Load, payload: bytes) -> None:
        self._settings = settings
        self._world = world
        self._load = load
        self._payload = payload
        self._row_bytes = len(payload) // settings.max_frame_tokens
        self._core = CloudCore(settings)
        self._random = random.Random(0)
        self._due: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._replied_s: dict[ConnectionId, float] = {}
        self._answers: dict[ConnectionId, Callable[[float], None]] = {}
        self._verify: dict[ConnectionId, Callable[[float], None]] = {}
        self._next: Step | None = None
        self._is_decoding = False
        self._num_away = 0
        self.measured = Measured()

    def connect(self, number: int) -> ConnectionId:
        """A device without a session."""
        connection, config, now = ConnectionId(number), self._settings, self._world.now
        self._take(self._core.connect(connection, now, Identity(str(number))), now)
        hello = Hello(
            min_version=1,
            max_version=1,
            fingerprint=config.fingerprint,
            first_layer=config.first_layer,
            num_layers=config.num_layers,
            hidden_size=config.hidden_size,
            dtypes=1 << config.dtype,
            codecs=1 << Codec.RAW,
            credential=b"",
        )
        self._send(connection, hello, now)
        return connection

    def open(self, connection: ConnectionId, number: int) -> None:
        """A session of the whole context, with the next number of its connection."""
        key = connection.to_bytes(8, "little") + number.to_bytes(8, "little")
        self._send(connection, Open(SessionId(number), key, CONTEXT), self._world.now)

    def add_decoder(self, connection: ConnectionId) -> None:
        """Let a device have a text; it decodes from `resume` on."""
        self.open(connection, 1)
        load = self._load
        position = load.cached_rows

        def verify(now: float) -> None:
            self._states(connection, 1, (position, load.round_rows), Want.ALL, now)

        def on_reply(now: float) -> None:
            nonlocal position
            if connection in self._replied_s:
                self.measured.rounds_s.append(now - self._replied_s[connection])
            self._replied_s[connection] = now
            position += _ACCEPTED
            if position > load.cached_rows + _ROUNDS_CONTEXT:
                position = load.cached_rows
            if self._is_decoding:
                spread = load.away_spread * self._random.uniform(-1, 1)
                self._later(now + load.away_s * (1 + spread), verify)
            else:
                self._num_away += 1

        self._answers[connection] = lambda now: None
        for begin in range(0, position, load.frame_rows):
            num_rows = min(load.frame_rows, position - begin)
            self._states(connection, 1, (begin, num_rows), Want.NONE, self._world.now)
        while self._core.has_work or self._next is not None:
            self.turn()
        self._answers[connection] = on_reply
        self._verify[connection] = verify
        self._num_away += 1

    def resume(self) -> None:
        """Have all who may decode begin with it, at once."""
        self._is_decoding = True
        self._num_away = 0
        self._replied_s.clear()
        for verify in self._verify.values():
            verify(self._world.now)

    def pause(self) -> None:
        """End the rounds under way, and have nobody begin another."""
        self._is_decoding = False
        while self._num_away < len(self._verify):
            self.turn()

    def prompt(self, connection: ConnectionId, number: int) -> None:
        """Send a prompt and wait for its last row."""
        load, begun_s = self._load, self._world.now
        self.open(connection, number)
        is_done = False

        def on_reply(now: float) -> None:
            nonlocal is_done
            is_done = True
            self.measured.prompts_s.append(now - begun_s)

        self._answers[connection] = on_reply
        for begin in range(0, load.prompt_rows, load.frame_rows):
            end = min(begin + load.frame_rows, load.prompt_rows)
            want = Want.LAST if end == load.prompt_rows else Want.NONE
            rate = load.uplink_rows_per_s
            came_s = begun_s if rate is None else begun_s + end / rate
            self._later(came_s, self._sender(connection, number, (begin, end - begin), want))
        while not is_done:
            self.turn()
        self._send(connection, Close(SessionId(number)), self._world.now)

    def run(self, seconds: float) -> None:
        """Let those who decode go on for a while."""
        end_s = self._world.now + seconds
        self._later(end_s, lambda now: None)
        while self._world.now < end_s:
            self.turn()

    def taken(self) -> Measured:
        """What was measured since this was last asked."""
        measured, self.measured = self.measured, Measured()
        return measured

    def turn(self) -> None:
        """Take what is due, and perform a step if there is one."""
        began_s = self._world.now
        self._deliver(began_s)
        step = self._next or self._core.next_step(began_s)
        self._next = None
        if step is not None:
            outcome = self._world.perform(step)
            now = self._world.now
            self.measured.busy_s += outcome.seconds
            self._deliver(now)
            actions = self._core.step_done(step, outcome, now)
            # The daemon gives out the next step first, too.
            self._next = self._core.next_step(now)
            self._take(actions, now)
        elif self._due:
            self._world.wait_until(self._due[0][0])
        self.measured.wall_s += self._world.now - began_s

    def close(self) -> None:
        """Free what the engine holds for them."""
        self._due.clear()
        self._take(self._core.shut_down(self._world.now), self._world.now)
        self.turn()
        self.turn()

    def _deliver(self, now: float) -> None:
        """Have the frames come that are due, each when it was."""
        while self._due and self._due[0][0] <= now:
            due_s, _, call = heapq.heappop(self._due)
            call(due_s)

    def _sender(
        self, connection: ConnectionId, number: int, place: tuple[int, int], want: Want
    ) -> Callable[[float], None]:
        return lambda now: self._states(connection, number, place, want, now)

    def _states(
        self,
        connection: ConnectionId,
        number: int,
        place: tuple[int, int],
        want: Want,
        now: float,
    ) -> None:
        position, num_rows = place
        payload = self._payload[: num_rows * self._row_bytes]
        session = (SessionId(number), 0, position, num_rows)
        states = States(*session, self._settings.dtype, Codec.RAW, want, payload)
        self._send(connection, states, now)

    def _later(self, due_s: float, call: Callable[[float], None]) -> None:
        heapq.heappush(self._due, (due_s, next(self._order), call))

    def _send(self, connection: ConnectionId, message: Message, now: float) -> None:
        self._take(self._core.receive(connection, message, now), now)

    def _take(self, actions: Sequence[Action], now: float) -> None:
        for action in actions:
            if not isinstance(action, Send):
                continue
            match action.message:
                case Reply(num_rows=num_rows) if num_rows:
                    self._answers[action.connection](now)
                case Fault() as fault if fault.session:
                    raise RuntimeError(f"the cloud refused: {fault.message}")


@dataclass(frozen=True, slots=True)
class Result:
    """P50 and P99 of rounds quiet and beside prompts, medians of prompts alone and beside, and the
    share of the engine that decoders take when quiet; seconds."""

    quiet_s: tuple[float, float]
    beside_s: tuple[float, float]
    alone_s: float
    prompt_s: float
    share: float


def measure(bench: Bench, num_decoders: int, num_prompts: int, quiet_s: float) -> Result:
    """A prompt alone, decoders alone, and both, in turns, so that each meets what the others do.

    The first turn counts for nothing. Decoders are quiet for `quiet_s` in all.
    """
    prompter = bench.connect(1)
    for number in range(2, num_decoders + 2):
        bench.add_decoder(bench.connect(number))
    quiet, both, alone = Measured(), Measured(), Measured()
    for number in range(num_prompts + 1):
        bench.run(_SETTLE_S)
        bench.taken()
        bench.prompt(prompter, 2 * number + 1)
        alone_prompts_s = bench.taken().prompts_s
        bench.resume()
        bench.run(_SETTLE_S)
        bench.taken()
        bench.run(quiet_s / num_prompts)
        quiet_now = bench.taken()
        bench.prompt(prompter, 2 * number + 2)
        both_now = bench.taken()
        bench.pause()
        if number:
            alone.prompts_s += alone_prompts_s
            quiet.rounds_s += quiet_now.rounds_s
            quiet.busy_s += quiet_now.busy_s
            quiet.wall_s += quiet_now.wall_s
            both.rounds_s += both_now.rounds_s
            both.prompts_s += both_now.prompts_s
    bench.close()
    return Result(
        quiet_s=_percentiles(quiet.rounds_s),
        beside_s=_percentiles(both.rounds_s),
        alone_s=percentile(alone.prompts_s, 50),
        prompt_s=percentile(both.prompts_s, 50),
        share=quiet.busy_s / quiet.wall_s,
    )


def _percentiles(values_s: list[float]) -> tuple[float, float]:
    return percentile(values_s, 50), percentile(values_s, 99)

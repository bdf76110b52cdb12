"""Sessions that decode beside one that sends a long prompt: what each pays, on a real engine.

`python -m bench.steps.contention` drives the production core and step runner with a real engine on
the real clock, without sockets. Decoding sessions verify a few rows, are away for as long as link
and device would take, and verify again. The prompt comes in frames, at once or as fast as an uplink
brings them. Each kind is measured alone, then both together, in turns.

Where decoders alone take a share U of the engine, and beside a prompt their rounds last t times as
long and the prompt r times as long, no scheduler does better than 1 / r = 1 - U / t, but for what
rows of both in one step save.
"""

import argparse
import heapq
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bench.machine import machine_lines
from bench.measures import percentile
from bench.steps.middle_step import random_bundle
from cloud_server.config import CloudConfig
from cloud_server.core.actions import Action, ConnectionId, Identity, Send, Step
from cloud_server.core.config import CoreConfig
from cloud_server.core.core import CloudCore
from cloud_server.core_settings import core_settings
from cloud_server.daemon.step_runner import StepRunner
from cloud_server.engines.engine import MiddleEngine
from cloud_server.server import load_chosen_engine
from submodels.bundle.bundle import Bundle, load_bundle
from submodels.bundle.coding_file import read_channel_scales
from submodels.random_models import RandomModel
from wire.messages import Close, Codec, Fault, Hello, Message, Open, Reply, SessionId, States, Want
from wire.numbers import NUMPY_DTYPES, pack_rows

_CONTEXT = 4096
_CACHED = 128
"""Of a decoding session when it begins."""

_ACCEPTED = 3
"""By which a session's text grows with each round."""

_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Load:
    """Who asks for what. `uplink_rows_per_s` None: the whole prompt is there at once."""

    num_decoders: int = 8
    round_rows: int = 5
    away_s: float = 0.0
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
    """A core and an engine, and devices that are no more than a few times and counts."""

    def __init__(self, settings: CoreConfig, engine: MiddleEngine, load: Load) -> None:
        self._settings = settings
        self._load = load
        self._core = CloudCore(settings)
        self._runner = StepRunner(engine, time.perf_counter, settings.dtype)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._replied_s: dict[ConnectionId, float] = {}
        self._begun_s: float | None = None
        self._answers: dict[ConnectionId, Callable[[], None]] = {}
        self.measured = Measured()
        numbers = np.random.default_rng(0).standard_normal((512, settings.hidden_size))
        self._payload = bytes(
            pack_rows(numbers.astype(NUMPY_DTYPES[settings.dtype]), settings.dtype)
        )
        self._row_bytes = len(self._payload) // 512

    def connect(self, number: int) -> ConnectionId:
        """A device with an empty session of the whole context."""
        connection = ConnectionId(number)
        config = self._settings
        self._take(self._core.connect(connection, time.perf_counter(), Identity(str(number))))
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
        self._send(connection, hello)
        return connection

    def open(self, connection: ConnectionId, number: int) -> None:
        """A session with the next number of its connection."""
        key = connection.to_bytes(8, "little") + number.to_bytes(8, "little")
        self._send(connection, Open(SessionId(number), key, _CONTEXT))

    def decode(self, connection: ConnectionId) -> None:
        """Begin to decode, for good."""
        self.open(connection, 1)
        position = _CACHED - _ACCEPTED

        def verify() -> None:
            self._states(connection, 1, position, self._load.round_rows, Want.ALL)

        def on_reply() -> None:
            nonlocal position
            now = time.perf_counter()
            if connection in self._replied_s:
                self.measured.rounds_s.append(now - self._replied_s[connection])
            self._replied_s[connection] = now
            position = position + _ACCEPTED if position + 64 < _CONTEXT else _CACHED
            self._later(now + self._load.away_s, verify)

        self._answers[connection] = on_reply
        self._states(connection, 1, 0, _CACHED, Want.LAST)

    def prompt(self, connection: ConnectionId, number: int) -> None:
        """Send a prompt and wait for its last row."""
        load, begun_s = self._load, time.perf_counter()
        self.open(connection, number)
        is_done = False

        def on_reply() -> None:
            nonlocal is_done
            is_done = True
            self.measured.prompts_s.append(time.perf_counter() - begun_s)

        self._answers[connection] = on_reply
        for begin in range(0, load.prompt_rows, load.frame_rows):
            end = min(begin + load.frame_rows, load.prompt_rows)
            want = Want.LAST if end == load.prompt_rows else Want.NONE
            rate = load.uplink_rows_per_s
            came_s = begun_s if rate is None else begun_s + end / rate
            rows = end - begin
            self._later(came_s, self._sender(connection, number, begin, rows, want))
        while not is_done:
            self.turn()
        self._send(connection, Close(SessionId(number)))

    def run(self, seconds: float) -> None:
        """Let those who decode go on for a while."""
        end_s = time.perf_counter() + seconds
        while time.perf_counter() < end_s:
            self.turn()

    def forget(self) -> None:
        """Begin a measurement anew; rounds under way count for none."""
        self.measured = Measured()
        self._replied_s.clear()

    def turn(self) -> None:
        """Take what is due, and perform one step if there is one."""
        now = time.perf_counter()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()
        step = self._core.next_step(time.perf_counter())
        if step is None:
            if self._due:
                time.sleep(max(0.0, min(0.001, self._due[0][0] - time.perf_counter())))
        else:
            self._perform(step)
        self.measured.wall_s += time.perf_counter() - now

    def close(self) -> None:
        """Free what the engine holds for them."""
        self._due.clear()
        self._take(self._core.shut_down(time.perf_counter()))
        while (step := self._core.next_step(time.perf_counter())) is not None:
            self._perform(step)

    def _perform(self, step: Step) -> None:
        outcome = self._runner.run(step)
        self.measured.busy_s += outcome.seconds
        self._take(self._core.step_done(step, outcome, time.perf_counter()))

    def _sender(
        self, connection: ConnectionId, number: int, position: int, num_rows: int, want: Want
    ) -> Callable[[], None]:
        return lambda: self._states(connection, number, position, num_rows, want)

    def _states(
        self, connection: ConnectionId, number: int, position: int, num_rows: int, want: Want
    ) -> None:
        payload = self._payload[: num_rows * self._row_bytes]
        place = (SessionId(number), 0, position, num_rows)
        self._send(connection, States(*place, self._settings.dtype, Codec.RAW, want, payload))

    def _later(self, due_s: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._due, (due_s, next(self._order), call))

    def _send(self, connection: ConnectionId, message: Message) -> None:
        self._take(self._core.receive(connection, message, time.perf_counter()))

    def _take(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if not isinstance(action, Send):
                continue
            match action.message:
                case Reply(num_rows=num_rows) if num_rows:
                    self._answers[action.connection]()
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


def measure(
    settings: CoreConfig, engine: MiddleEngine, load: Load, num_prompts: int, quiet_s: float
) -> Result:
    """Prompts alone, decoders alone, and both."""
    alone = Bench(settings, engine, load)
    prompter = alone.connect(1)
    for number in range(1, num_prompts + 2):
        alone.prompt(prompter, number)
    alone.close()
    both = Bench(settings, engine, load)
    prompter = both.connect(1)
    for number in range(2, load.num_decoders + 2):
        both.decode(both.connect(number))
    both.run(quiet_s / 2)
    both.forget()
    both.run(quiet_s)
    quiet = both.measured
    both.forget()
    rounds_s: list[float] = []
    for number in range(1, num_prompts + 1):
        both.prompt(prompter, number)
        rounds_s += both.measured.rounds_s
        both.measured.rounds_s.clear()
        both.run(_PAUSE_S)
        both.measured.rounds_s.clear()
    both.close()
    return Result(
        quiet_s=_percentiles(quiet.rounds_s),
        beside_s=_percentiles(rounds_s),
        alone_s=percentile(alone.measured.prompts_s[1:], 50),
        prompt_s=percentile(both.measured.prompts_s, 50),
        share=quiet.busy_s / quiet.wall_s,
    )


def _percentiles(values_s: list[float]) -> tuple[float, float]:
    return percentile(values_s, 50), percentile(values_s, 99)


def _row(name: str, load: Load, each: Result) -> str:
    tbt, ttft = each.beside_s[1] / each.quiet_s[1], each.prompt_s / each.alone_s
    least = 1 / max(1e-9, 1 - each.share / 1.5)
    bound = f"{least:.2f}" if each.share < 1.5 and least > 0 else "none"
    times = [*each.quiet_s, *each.beside_s, each.alone_s, each.prompt_s]
    shown = " | ".join(f"{1000 * seconds:.1f}" for seconds in times)
    return (
        f"| {name} | {1000 * load.away_s:.0f} | {each.share:.2f} | {shown} | {tbt:.2f} | "
        f"{ttft:.2f} | {bound} |"
    )


@contextmanager
def _bundle(path: Path | None) -> Iterator[Bundle]:
    """The bundle that was named, or a random middle of 8 layers of 512."""
    if path is not None:
        yield load_bundle(path, "cloud")
        return
    with tempfile.TemporaryDirectory() as folder:
        model = RandomModel(
            hidden_size=512,
            num_layers=8,
            num_attention_heads=8,
            num_key_value_heads=4,
            intermediate_size=1408,
            max_context_tokens=_CONTEXT,
            dtype="bfloat16",
        )
        yield random_bundle(model, Path(folder))


def main() -> None:
    """Measure and print a table."""
    chosen = _chosen()
    lines = machine_lines()
    with _bundle(chosen.bundle) as bundle:
        config = CloudConfig(
            bundle.path,
            engine=chosen.engine,
            max_context_tokens=_CONTEXT,
            capacity_tokens=(chosen.decoders + 2) * _CONTEXT,
            identity_share=1.0,
            threads=chosen.threads if chosen.engine == "torch" else None,
            vllm_args=chosen.vllm_args if chosen.engine == "vllm" else None,
        )
        loaded = load_chosen_engine(bundle, config)
        try:
            rows = _measured(chosen, config, bundle, loaded.engine)
        finally:
            loaded.close()
    print("\n".join(lines))
    print(f"{loaded.description}; {chosen.decoders} sessions decode, 5 rows a round; ms")
    print(
        "| target s | away | share quiet | round P50 quiet | P99 | P50 beside | P99 | "
        "prompt alone | beside | round P99 ratio | prompt ratio | least at 1.5 |"
    )
    print("|" + "---|" * 12)
    print("\n".join(rows))


def _chosen() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", help="folder of hat split; else random")
    parser.add_argument("--engine", choices=("torch", "vllm"), default="torch")
    parser.add_argument("--vllm-args", default='{"enforce_eager": true}')
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--target-step-s", type=float, nargs="+", default=[0.25])
    parser.add_argument("--away-ms", type=float, nargs="+", default=[0, 40, 100])
    parser.add_argument("--uplink-rows-per-s", type=float)
    parser.add_argument("--decoders", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=5)
    parser.add_argument("--quiet-s", type=float, default=4.0)
    return parser.parse_args()


def _measured(
    chosen: argparse.Namespace, config: CloudConfig, bundle: Bundle, engine: MiddleEngine
) -> list[str]:
    """A row for each setting."""
    rows = []
    for target_s, away_ms in itertools.product(chosen.target_step_s, chosen.away_ms):
        settings = core_settings(config, bundle.manifest, engine, read_channel_scales(bundle))
        load = Load(
            num_decoders=chosen.decoders,
            away_s=away_ms / 1000,
            uplink_rows_per_s=chosen.uplink_rows_per_s,
        )
        settings = replace(settings, target_step_s=target_s)
        result = measure(settings, engine, load, chosen.prompts, chosen.quiet_s)
        rows.append(_row(f"{target_s:g}", load, result))
    return rows


if __name__ == "__main__":
    main()

"""`python -m bench.hostile`: an honest device's verifications, quiet and attacked, in turns.

The cloud is a process of its own, by default with the smallest model in this repository. The
attacker is another, at the lowest priority (of Linux' idle class): where cores are few, the cloud
and not the attacker's own work is what is measured. The honest device is in this process. Peers
have addresses of their own (127.0.0.2 and 127.0.0.3), as on a network; with --same-address all
share one, as behind one NAT.

With --names both have names with tokens, and the attacker's name has quotas, all of which it
reaches: of connections, sessions, KV cache and rows a second. With --step-ms the engine sleeps
instead of computing, so that what scheduling costs is seen on a machine with other work too.
"""

import argparse
import asyncio
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.hostile.attacks import ATTACKS, BEYOND_QUOTAS, NUM_CONNECTIONS
from bench.hostile.peer import PeerError, Target, health_times, verification_times
from bench.live.processes import Child, Command, first_of
from bench.machine import machine_lines
from bench.measures import percentile
from cloud_server.core.names.quota import NO_QUOTA, Quota
from cloud_server.core.names.tokens import Entry, Name, digest_of, tokens_of
from cloud_server.token_file import write_tokens
from submodels.bundle.bundle import load_bundle
from submodels.split import SplitOptions, split_checkpoint

_MODEL = Path(__file__).resolve().parents[2] / "models" / "stories260k"
"""Its steps take half a millisecond, so that whatever the event loop does is seen beside them."""

_START_S = 120.0
_LEAD_IN_S = 2.0
_PAUSE_S = 1.0
_QUOTAS_S = 6.0
"""Until the attacker's name has had what it may use at once, and is at its quotas."""


@dataclass
class Samples:
    """Seconds, over all periods of one kind."""

    rounds_s: list[float] = field(default_factory=list)
    health_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    async def take(self, honest: Target, seconds: float) -> None:
        """One period."""
        asking = asyncio.create_task(health_times(honest, seconds))
        try:
            self.rounds_s += await verification_times(honest, seconds)
        except PeerError as error:
            self.failures.append(str(error))
        self.health_s += await asking


@asynccontextmanager
async def _cloud(
    bundle: Path, shown: Sequence[str], given: argparse.Namespace
) -> AsyncIterator[Child]:
    ready = asyncio.Event()

    def take(line: bytes) -> None:
        if b"serving " in line:
            ready.set()

    program = ["hat", "cloud"] if given.step_ms is None else ["bench.hostile.sleeper"]
    step = ["--engine", given.engine]
    if given.step_ms is not None:
        step = ["--step-ms", str(given.step_ms)]
    command = [sys.executable, "-m", *program, str(bundle / "cloud"), "--port", str(given.port)]
    child = await Child.start(Command("cloud", [*command, *step, *shown]), take)
    try:
        await first_of(child, ready, _START_S, "ready")
        yield child
    finally:
        await child.stop()


@asynccontextmanager
async def _attacked(
    name: str, port: int, bundle: Path, secret: Path, source: str
) -> AsyncIterator[None]:
    command = [sys.executable, "-m", "bench.hostile.attacks", name, str(port), str(bundle)]
    child = await Child.start(Command(name, [*command, str(secret), source]))
    try:
        await asyncio.sleep(_QUOTAS_S if name == BEYOND_QUOTAS else _LEAD_IN_S)
        yield
    finally:
        await child.stop()


def _secret_in(bundle: Path, name: str) -> str:
    """A fresh secret, and a file of this name with it."""
    word, path = secrets.token_urlsafe(32), bundle / name
    path.write_text(word)
    path.chmod(0o600)
    return word


def _names_in(bundle: Path, given: argparse.Namespace) -> tuple[str, list[str]]:
    """The honest name's token, and the cloud's flag for both names; that of the attacker is in
    `secret`."""
    quota = Quota(NUM_CONNECTIONS, 2 * NUM_CONNECTIONS, 8192, given.rows_per_s)
    tokens = {"guest": secrets.token_urlsafe(32), "hog": _secret_in(bundle, "secret")}
    entries = [
        Entry(Name(name), digest_of(token), 0.0, quota if name == "hog" else NO_QUOTA)
        for name, token in tokens.items()
    ]
    write_tokens(bundle / "tokens.json", tokens_of(entries))
    return tokens["guest"], ["--tokens-file", str(bundle / "tokens.json")]


async def _measure(given: argparse.Namespace, bundle: Path) -> None:
    secret = bundle / "secret"
    if given.names:
        word, shown = _names_in(bundle, given)
    else:
        word, shown = _secret_in(bundle, "secret"), ["--secret-file", str(secret)]
    honest = Target(given.port, load_bundle(bundle, "cloud").manifest, word, "127.0.0.2")
    shown = [*shown, "--serve-device-bundle", str(bundle)]
    source = honest.source if given.same_address else "127.0.0.3"
    usual = [BEYOND_QUOTAS] if given.names else [name for name in ATTACKS if name != BEYOND_QUOTAS]
    async with _cloud(bundle, shown, given):
        await Samples().take(honest, 2.0)
        for name in given.attack or usual:
            quiet, attacked = Samples(), Samples()
            for _ in range(given.rounds):
                await quiet.take(honest, given.seconds)
                async with _attacked(name, given.port, bundle, secret, source):
                    await attacked.take(honest, given.seconds)
                await asyncio.sleep(_PAUSE_S)
            print(_row(name, quiet, attacked), flush=True)


def _row(name: str, quiet: Samples, attacked: Samples) -> str:
    cells = [name]
    for percent in (50, 99):
        before, during = _ms(quiet.rounds_s, percent), _ms(attacked.rounds_s, percent)
        cells += [f"{before:.1f}", f"{during:.1f}", f"{during / before:.1f}"]
    cells += [f"{max(quiet.health_s):.2f}", f"{max(attacked.health_s):.2f}"]
    cells.append(str(len(attacked.rounds_s)))
    cells.append("; ".join(quiet.failures + attacked.failures) or "none")
    return f"| {' | '.join(cells)} |"


def _ms(times_s: Sequence[float], percent: float) -> float:
    return 1e3 * percentile(times_s, percent) if times_s else float("nan")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each period")
    parser.add_argument("--rounds", type=int, default=3, help="quiet and attacked periods in turn")
    parser.add_argument("--attack", action="append", choices=ATTACKS, help="only these")
    parser.add_argument("--model", type=Path, default=_MODEL, help="checkpoint [stories260k]")
    parser.add_argument("--engine", choices=("torch", "vllm"), default="torch")
    parser.add_argument("--port", type=int, default=7799)
    parser.add_argument("--same-address", action="store_true")
    parser.add_argument("--names", action="store_true", help="two names, one beyond its quotas")
    parser.add_argument(
        "--step-ms", type=float, help="an engine that sleeps so long instead of computing"
    )
    parser.add_argument("--rows-per-s", type=int, default=50, help="of the attacker's name")
    given = parser.parse_args()
    print(*machine_lines(), sep="\n")
    periods = f"{given.rounds} x {given.seconds:g} s quiet and attacked in turn"
    print(f"{given.model.name}, {periods}, attacker idle class")
    print("| attack | p50 quiet ms | attacked | ratio | p99 quiet ms | attacked | ratio |", end="")
    print(" /health worst s, quiet | attacked | rounds | failures |")
    print("|---" * 11 + "|")
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder)
        split_checkpoint(SplitOptions(str(given.model), bundle, 1, onnx_weights=()))
        asyncio.run(_measure(given, bundle))


if __name__ == "__main__":
    main()

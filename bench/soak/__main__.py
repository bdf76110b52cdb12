"""`python -m bench.soak --minutes N`: both programs under everything that can happen to them.

A cloud and a device as processes, clients with fixed seeds whose texts are compared with those of
an undisturbed run, and, in a seeded order: kill -9 of either or both, cut and black-holed
connections, stopped processes, hostile neighbours. At the end nobody asks any more, and sessions,
KV and descriptors are to be what they were. The exit code is 1 if anything was not as it should be.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from bench.machine import machine_lines
from bench.soak.faults import FAULTS, KILLS, OTHERS
from bench.soak.running import Outcome, Plan, soak
from submodels.split import SplitOptions, split_checkpoint

_MODEL = Path(__file__).resolve().parents[2] / "models" / "stories260k"


def main() -> int:
    """Run it and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=120)
    parser.add_argument("--model", type=Path, default=_MODEL, help="checkpoint [stories260k]")
    parser.add_argument("--fault", action="append", choices=FAULTS, help="only these")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    chosen = given.fault or FAULTS
    print(*machine_lines(), sep="\n")
    words = f"{given.minutes:g} minutes, seed {given.seed}, {given.clients} clients"
    print(f"{given.model.name}, {words}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder)
        split_checkpoint(SplitOptions(str(given.model), bundle, 1))
        plan = Plan(
            bundle,
            60 * given.minutes,
            given.seed,
            given.clients,
            given.max_tokens,
            kills=[name for name in KILLS if name in chosen],
            others=[name for name in OTHERS if name in chosen],
        )
        outcome = asyncio.run(soak(plan))
    print(*report(outcome), sep="\n")
    return 1 if outcome.wrong else 0


def _end(number: int, _: FrameType | None) -> None:
    """Leave, and take along what was started."""
    sys.exit(128 + number)


def report(outcome: Outcome) -> list[str]:
    """The receipt, line by line."""
    tally = outcome.tally
    faults = ", ".join(f"{n} x {name}" for name, n in sorted(outcome.num_done.items()))
    return [
        f"faults: {faults}",
        f"answers: {tally.num_right} whole and right, {tally.num_left} left by their client, "
        f"{tally.num_broken} ended with their device, {tally.num_refused} refused for want of a "
        f"cloud; the longest took {tally.longest_s:.1f} s",
        *outcome.lines,
        *(f"WRONG: {each}" for each in outcome.wrong),
        "all as it should be" if not outcome.wrong else f"{len(outcome.wrong)} things are wrong",
    ]


if __name__ == "__main__":
    sys.exit(main())

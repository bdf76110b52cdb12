"""Fuzz what is read of others: `python -m tests.fuzz [TARGET ...] [--seconds N]`.

Where atheris is installed, coverage leads: `--corpus FOLDER` keeps what reached something new. A
file in place of a target's name is checked again: `python -m tests.fuzz core fault-core-1f2e.bin`.
"""

import argparse
import hashlib
import importlib.util
import logging
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.fuzz.running import INSTRUMENTED, TARGETS, FoundError, Tally, load, run_plain, until

_TELL_EVERY_S = 30.0


def main() -> int:
    """Run what was asked for, one target after the other; 1 when something was found."""
    asked = _arguments()
    logging.disable(logging.CRITICAL)
    files = [Path(name) for name in asked.targets if name not in TARGETS]
    targets = [name for name in asked.targets if name in TARGETS] or list(TARGETS)
    if files:
        for path in files:
            load(targets[0]).check(path.read_bytes())
        return 0
    if len(targets) > 1:
        return max(_run_alone(name, asked) for name in targets)
    if asked.plain or importlib.util.find_spec("atheris") is None:
        return _by_chance(targets[0], asked)
    return _by_coverage(targets[0], asked)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}, or files; all")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--runs", type=int, help="at most, for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="folder of inputs, one folder for each target")
    parser.add_argument("--plain", action="store_true", help="by chance, with atheris too")
    return parser.parse_args()


def _run_alone(name: str, asked: argparse.Namespace) -> int:
    """A target in a process of its own: libFuzzer ends the one that it runs in."""
    command = [sys.executable, "-m", "tests.fuzz", name, f"--seconds={asked.seconds}"]
    command += [f"--seed={asked.seed}", *(["--plain"] if asked.plain else [])]
    command += [] if asked.runs is None else [f"--runs={asked.runs}"]
    command += [] if asked.corpus is None else [f"--corpus={asked.corpus / name}"]
    return subprocess.run(command, check=False).returncode


def _by_chance(name: str, asked: argparse.Namespace) -> int:
    begun_s = time.monotonic()
    try:
        tally = run_plain(load(name), asked.seed, asked.runs, until(asked.seconds))
    except FoundError as found:
        traceback.print_exception(found.__cause__)
        path = Path(f"fault-{name}-{hashlib.sha256(found.data).hexdigest()[:8]}.bin")
        path.write_bytes(found.data)
        print(f"{name}: {found}: {path}")
        return 1
    print(f"{name}, by chance: {tally.line(time.monotonic() - begun_s)}", flush=True)
    return 0


def _by_coverage(name: str, asked: argparse.Namespace) -> int:
    """Does not return where atheris ends the process, which it does."""
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        target = load(name)
    corpus = asked.corpus or Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(data)
    tally, begun_s, told_s = Tally(), time.monotonic(), time.monotonic()

    def check(data: bytes) -> None:
        nonlocal told_s
        tally.add(target.check(data))
        now = time.monotonic()
        if now - told_s >= _TELL_EVERY_S or tally.num_runs == asked.runs:
            told_s = now
            print(f"{name}, by coverage: {tally.line(now - begun_s)}", flush=True)

    options = [f"-max_total_time={int(asked.seconds)}", f"-seed={asked.seed}", "-max_len=4096"]
    options += [f"-artifact_prefix=fault-{name}-", "-print_final_stats=1"]
    options += [] if asked.runs is None else [f"-runs={asked.runs}"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], check)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`make bench`: all behind the table of docs/benchmarks.md, as a list of `hat bench` commands.

`python -m bench.suite` runs them one after the other, in about 20 minutes on two cores, and writes
results, pictures and one page into a folder; `--quick` runs a small part in two or three. Each
command can be typed by itself.
"""

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.report.readme_table import write_three_rows

_ROOT = Path(__file__).resolve().parents[1]
_MODELS = _ROOT / "models"
_README = _ROOT / "README.md"
_PAGE = _ROOT / "docs" / "benchmarks.md"

RATES = ("up=5mbit,down=20mbit", "up=20mbit,down=50mbit")
RTTS_MS = (20, 40, 80)
LINKS = tuple(f"{rate},rtt={rtt_ms}ms" for rate in RATES for rtt_ms in RTTS_MS)
MIDDLE_LINK = LINKS[4]

MODEL_PROMPTS = {"stories260k": "tinystories", "storybook-7m": "books:160"}
"""The models with real weights, each with prompts of the kind it was trained on."""

SWEEP_TOKENS = (64, 256, 768)
SWEEP_ARMS = "cloud-only,u-shape,u-sarathi,hat,hat-paper"
SAMPLED_ARMS = "cloud-only,u-shape,hat,hat-no-ahead"
QUICK_ARMS = "cloud-only,u-shape,hat"


@dataclass(frozen=True, slots=True)
class Part:
    """One `hat` command, the file or folder it writes, and about how long it takes on two cores.

    `budget_s` is a plan, not a limit: the whole is to fit 20 minutes.
    """

    name: str
    argv: tuple[str, ...]
    writes: Path
    budget_s: int


def parts(out: Path, is_quick: bool = False) -> list[Part]:
    """The whole of it, in order. All live parts are before what reads them."""
    live = _quick(out) if is_quick else _full(out)
    loopback = [part for part in live if "loopback" in part.name]
    twins = [part for part in live if part.name.startswith("grid")]
    simulated = [_twin(out, part, loopback) for part in twins]
    # What is shown in full is the first setting: one with a link.
    shown = (*(part for part in live if part not in loopback), *loopback, *simulated)
    results = [str(part.writes) for part in shown if part.writes.suffix == ".json"]
    argv = ("bench", "report", *results, "--out", str(out / "report"))
    if not is_quick:
        argv = (*argv, "--table", str(_PAGE))
    return [*live, *simulated, Part("report", argv, out / "report", 30)]


def _full(out: Path) -> list[Part]:
    made = out / "model-110m"
    found = [_loopback(out, name, 30) for name in MODEL_PROMPTS]
    found += [_grid(out, name, LINKS, "all", 3, 370) for name in MODEL_PROMPTS]
    found += [_sampled(out, name) for name in MODEL_PROMPTS]
    found.append(Part("make-model", _make_model(made), made, 10))
    found += [_sweep(out, made, num_tokens) for num_tokens in SWEEP_TOKENS]
    return found


def _quick(out: Path) -> list[Part]:
    name = next(iter(MODEL_PROMPTS))
    return [_loopback(out, name, 25), _grid(out, name, (MIDDLE_LINK,), QUICK_ARMS, 2, 30)]


def _loopback(out: Path, model: str, budget_s: int) -> Part:
    """What a machine's own steps take: the simulator's tables come from these."""
    load = ["--link", "loopback", "--requests", "8", "--max-tokens", "48"]
    return _live(out, f"loopback {model}", model, MODEL_PROMPTS[model], load, budget_s)


def _grid(
    out: Path, model: str, links: Sequence[str], arms: str, num_requests: int, budget_s: int
) -> Part:
    load = [flag for link in links for flag in ("--link", link)]
    load += ["--requests", str(num_requests), "--max-tokens", "24"]
    load += [] if arms == "all" else ["--arms", arms]
    return _live(out, f"grid {model}", model, MODEL_PROMPTS[model], load, budget_s)


def _sampled(out: Path, model: str) -> Part:
    """Beside greedy answers, which go in loops and so flatter every drafter."""
    load = ["--link", MIDDLE_LINK, "--arms", SAMPLED_ARMS, "--temperature", "0.8"]
    load += ["--requests", "4", "--max-tokens", "24"]
    return _live(out, f"sampled {model}", model, MODEL_PROMPTS[model], load, 30)


def _sweep(out: Path, made: Path, num_tokens: int) -> Part:
    """TTFT over the prompt's length, with noise for weights: no draft is made for one token."""
    load = ["--link", MIDDLE_LINK, "--arms", SWEEP_ARMS, "--requests", "2", "--max-tokens", "1"]
    load += ["--warm-up", "2"]
    name = f"ttft 110m {num_tokens}"
    return _live(out, name, str(made), f"books:{num_tokens}", load, 60)


def _live(
    out: Path, name: str, model: str, prompts: str, load: Sequence[str], budget_s: int
) -> Part:
    folder = str(_MODELS / model) if (_MODELS / model).is_dir() else model
    file = out / f"{name.replace(' ', '-')}.json"
    # In float32, where equal texts are promised and checked.
    what = ("--model", folder, "--dtype", "float32", "--prompts", prompts)
    argv = ("bench", "live", *what, *load, "--out", str(file))
    return Part(name, argv, file, budget_s)


def _make_model(made: Path) -> tuple[str, ...]:
    return ("bench", "make-model", "110m", "--out", str(made))


def _twin(out: Path, grid: Part, loopback: Sequence[Part]) -> Part:
    """The same settings under virtual time."""
    model = grid.name.removeprefix("grid ")
    [calibration] = [part for part in loopback if part.name == f"loopback {model}"]
    file = out / f"sim-{model}.json"
    # A setting is never learned from itself, so the grid's other settings may be.
    learned = ("--calibrate", str(calibration.writes), "--calibrate", str(grid.writes))
    files = ("--like", str(grid.writes), *learned)
    return Part(f"sim {model}", ("bench", "sim", *files, "--out", str(file)), file, 40)


def main() -> int:
    """Run all parts; the first one that fails ends it with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(".hat/bench"))
    parser.add_argument("--quick", action="store_true", help="a small part, two or three minutes")
    parser.add_argument("--print", action="store_true", help="print the commands and run none")
    chosen = parser.parse_args()
    todo = parts(chosen.out, chosen.quick)
    chosen.out.mkdir(parents=True, exist_ok=True)
    begun_s = time.monotonic()
    for number, part in enumerate(todo, start=1):
        command = shlex.join(["hat", *part.argv])
        if chosen.print:
            print(command)
            continue
        left_s = sum(each.budget_s for each in todo[number - 1 :])
        print(f"[{number}/{len(todo)}] {part.name}, about {left_s / 60:.0f} minutes left")
        print(f"  {command}", flush=True)
        if part.name == "make-model" and (part.writes / "config.json").is_file():
            continue
        code = subprocess.run([sys.executable, "-m", "hat", *part.argv], check=False).returncode
        if code != 0:
            print(f"{part.name} failed with exit code {code}", file=sys.stderr)
            return code
    if not chosen.print:
        if not chosen.quick:
            write_three_rows(_PAGE, _README)
        took = (time.monotonic() - begun_s) / 60
        print(f"{took:.1f} minutes; open {chosen.out / 'report' / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

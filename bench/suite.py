"""`make bench`: all behind the tables of docs/benchmarks.md and the README's chart, as commands.

`python -m bench.suite` runs them one after the other, in about 12 minutes on two cores, and writes
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

from bench.report.readme_table import write_readme
from bench.sim.settings.slow_links import LINKS

_ROOT = Path(__file__).resolve().parents[1]
_MODELS = _ROOT / "models"
_README = _ROOT / "README.md"
_PAGE = _ROOT / "docs" / "benchmarks.md"
_CHART = _ROOT / "docs" / "links.svg"

MIDDLE_LINK = LINKS[1]

REAL_ARMS = "cloud-only,device-only,u-shape,hat"

OWN_SAMPLING = ("--temperature", "0.2", "--top-p", "0.9")
"""As the model card of SmolLM2-135M-Instruct samples; its GGUF file does not say how."""

GPU = "A6000"
"""The cloud of the paper's setting."""

MODEL_PROMPTS = {"stories260k": "tinystories", "storybook-7m": "books:160"}
"""The models that come with hat, each with an adapter and prompts of the kind it was trained on."""


@dataclass(frozen=True, slots=True)
class Part:
    """One `hat` command, the file or folder it writes, and about how long it takes on two cores.

    `budget_s` is a plan, not a limit: the whole is to fit 12 minutes.
    """

    name: str
    argv: tuple[str, ...]
    writes: Path
    budget_s: int


def parts(out: Path, is_quick: bool = False) -> list[Part]:
    """The whole of it, in order. All live parts are before what reads them."""
    live = _quick(out) if is_quick else _full(out)
    simulated = [] if is_quick else _simulated(out, live)
    results = [str(part.writes) for part in (*live, *simulated)]
    argv = ("bench", "report", *results, "--out", str(out / "report"))
    if not is_quick:
        argv = (*argv, "--table", _named(_PAGE), "--chart", _named(_CHART))
    return [*live, *simulated, Part("report", argv, out / "report", 20)]


def _full(out: Path) -> list[Part]:
    """The real model first: what is shown in full is the first setting."""
    links = [flag for link in LINKS for flag in ("--link", link)]
    middle = ("--link", MIDDLE_LINK)
    # Two of each category.
    many = (*middle, "--requests", "12", "--max-tokens", "48", "--warm-up", "1", "--arms")
    few = ("--requests", "3", "--max-tokens", "24")
    grid = (*links, "--arms", REAL_ARMS, "--requests", "6", "--max-tokens", "24", "--warm-up", "2")
    return [
        _real(out, "real grid", grid, 380),
        _real(out, "real acceptance", (*many, "hat"), 80),
        _real(out, "real sampled", (*many, "hat", *OWN_SAMPLING), 80),
        _small(out, "stories260k", (*middle, *few), 50),
        _small(out, "storybook-7m", (*middle, *few), 55),
    ]


def _quick(out: Path) -> list[Part]:
    load = ("--arms", "cloud-only,u-shape,hat", "--requests", "2", "--max-tokens", "12")
    return [_real(out, "real grid", ("--link", MIDDLE_LINK, *load, "--warm-up", "1"), 100)]


def _real(out: Path, name: str, load: Sequence[str], budget_s: int) -> Part:
    """The default model, with its own prompts; without a package index that is a small one."""
    return _live(out, name, load, budget_s)


def _small(out: Path, model: str, load: Sequence[str], budget_s: int) -> Part:
    """All arms, of a model with an adapter."""
    what = ("--model", _named(_MODELS / model), "--prompts", MODEL_PROMPTS[model])
    return _live(out, f"grid {model}", (*what, *load), budget_s)


def _live(out: Path, name: str, load: Sequence[str], budget_s: int) -> Part:
    file = out / f"{name.replace(' ', '-')}.json"
    # In float32, where equal texts are promised and checked.
    argv = ("bench", "live", "--dtype", "float32", *load, "--out", str(file))
    return Part(name, argv, file, budget_s)


def _simulated(out: Path, live: Sequence[Part]) -> list[Part]:
    """The real model's settings under virtual time, the same on a GPU, and an 8B model."""
    by_name = {part.name: str(part.writes) for part in live}
    grid, acceptance = by_name["real grid"], by_name["real acceptance"]
    # A setting is never learned from itself, so the grid's other settings may be.
    like = ("--like", grid, "--calibrate", grid, "--calibrate", acceptance)
    on_gpu = (*like, "--cloud", GPU)
    large = ("--8b", "--acceptance", acceptance, "--table", _named(_README))
    return [
        _sim(out, "sim real", like, 20),
        _sim(out, "sim gpu", on_gpu, 15),
        _sim(out, "sim 8b", large, 20),
    ]


def _sim(out: Path, name: str, what: Sequence[str], budget_s: int) -> Part:
    file = out / f"{name.replace(' ', '-')}.json"
    return Part(name, ("bench", "sim", *what, "--out", str(file)), file, budget_s)


def _named(path: Path) -> str:
    """A path of this repository as one would type it here: results keep the commands."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


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
        code = subprocess.run([sys.executable, "-m", "hat", *part.argv], check=False).returncode
        if code != 0:
            print(f"{part.name} failed with exit code {code}", file=sys.stderr)
            return code
    if not chosen.print:
        if not chosen.quick:
            results = [part.writes for part in todo if part.writes.suffix == ".json"]
            write_readme(results, _README, _CHART)
        took = (time.monotonic() - begun_s) / 60
        print(f"{took:.1f} minutes; open {chosen.out / 'report' / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

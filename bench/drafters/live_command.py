"""`python -m bench.drafters live` and `live-tables`: flags, result files, and pages."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.drafters.live import PARTS, Outing, measure, with_adapter
from bench.drafters.live_tables import live_tables
from bench.link.shaped_link import LinkKind
from bench.link.spec import parse_link_spec
from bench.live.overview import different_texts
from bench.receipts import live_receipt
from bench.records import Run, read_run, write_run
from bench.report.marked import write_between
from process.errors import ConfigError

MARK = "bench-drafters-live"
"""The part of a Markdown file that has the tables."""

LINKS = tuple(f"up=20mbit,down=20mbit,rtt={rtt_ms}ms" for rtt_ms in (40, 10, 80))


def add_live(live: argparse.ArgumentParser) -> None:
    """The flags of `live`."""
    usual = Outing(Path(), None, ())
    live.set_defaults(run=_live)
    live.add_argument("bundles", type=Path, help="folder that `hat split` wrote")
    live.add_argument("--adapter", type=Path, help="installed for the default; else as it is")
    live.add_argument("--paper", type=Path, help="the paper's adapter, for one more arm")
    live.add_argument("--link", dest="links", action="append", help="as in `hat bench live`")
    live.add_argument("--link-kind", choices=[kind.value for kind in LinkKind])
    live.add_argument("--parts", default=",".join(PARTS), help="default: %(default)s")
    flag = _Numbers(live)
    flag("--requests", usual.num_requests, "questions over each link")
    flag("--max-tokens", usual.max_tokens, "of their answers")
    flag("--adversarial", usual.num_adversarial, "adversarial texts over each link")
    flag("--adversarial-tokens", usual.adversarial_tokens, "of their answers")
    flag("--warm-up-tokens", usual.warm_up_tokens, "adversarial ones before those that count")
    live.add_argument("--minutes", type=float, help="what is left then is left out, and named")
    live.add_argument("--seed", type=int, default=0)
    live.add_argument("--out", type=Path, required=True, help="result file")
    live.add_argument("--table", type=Path, help=f"Markdown file with a part {MARK}")


def add_live_tables(tables: argparse.ArgumentParser) -> None:
    """The flags of `live-tables`."""
    tables.set_defaults(run=_tables)
    tables.add_argument("results", type=Path, nargs="+", help="files that `live` wrote")
    tables.add_argument("--table", type=Path, help=f"Markdown file with a part {MARK}")


class _Numbers:
    """Flags that are numbers of 1 or more."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parser = parser

    def __call__(self, name: str, usual: int, about: str) -> None:
        text = f"{about}; default: %(default)s"
        self._parser.add_argument(name, type=_count, default=usual, help=text)


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, got {text!r}")
    return int(text)


def _live(chosen: argparse.Namespace) -> int:
    """1 if an answer failed, or is not the same text in every arm."""
    receipt = live_receipt(command_of(sys.argv[1:]), chosen.seed)
    with TemporaryDirectory(prefix="hat-drafters-") as folder:
        bundles, paper = chosen.bundles, None
        if chosen.adapter is not None:
            bundles = with_adapter(bundles, chosen.adapter, Path(folder) / "default")
        if chosen.paper is not None:
            paper = with_adapter(chosen.bundles, chosen.paper, Path(folder) / "paper") / "device"
        cells = measure(_outing(chosen, bundles, paper), _say)
    run = Run(kind="live", receipt=receipt, cells=cells)
    write_run(chosen.out, run)
    _write([run], chosen.table)
    wrong = different_texts(cells)
    wrong += [
        f"{cell.arm} failed at prompt {one.number}: {one.error} ({cell.setting})"
        for cell in cells
        for one in cell.requests
        if one.error is not None
    ]
    for line in wrong:
        _say(f"bench.drafters: {line}")
    return 1 if wrong else 0


def command_of(arguments: Sequence[str]) -> list[str]:
    """The command as a page shows it: folders of this machine are named by their last part."""
    shown = [Path(word).name if Path(word).is_absolute() else word for word in arguments]
    return ["python", "-m", "bench.drafters", *shown]


def _tables(chosen: argparse.Namespace) -> int:
    _write([read_run(path) for path in chosen.results], chosen.table)
    return 0


def _write(runs: Sequence[Run], table: Path | None) -> None:
    """Tables of all runs together, with what measured them, into a file and to the terminal."""
    lines = [live_tables([cell for run in runs for cell in run.cells])]
    for receipt in (run.receipt for run in runs):
        load = "" if receipt.load_average is None else f", load average {receipt.load_average:.1f}"
        lines.append(
            f"`{shlex.join(receipt.command)}`: {receipt.hardware}, {receipt.num_cores} cores"
            f"{load} before, commit {receipt.commit}.\n"
        )
    text = "\n".join(lines)
    print(text)
    if table is not None:
        write_between(table, MARK, text)


def _outing(chosen: argparse.Namespace, bundles: Path, paper: Path | None) -> Outing:
    parts = tuple(chosen.parts.split(","))
    if unknown := [part for part in parts if part not in PARTS]:
        raise ConfigError(f"--parts: expected some of {', '.join(PARTS)}, got {unknown[0]!r}")
    limit = {} if chosen.minutes is None else {"limit_s": 60 * chosen.minutes}
    return Outing(
        bundles=bundles,
        paper=paper,
        links=tuple(parse_link_spec(text) for text in chosen.links or LINKS),
        parts=parts,
        link_kind=None if chosen.link_kind is None else LinkKind(chosen.link_kind),
        num_requests=chosen.requests,
        max_tokens=chosen.max_tokens,
        num_adversarial=chosen.adversarial,
        adversarial_tokens=chosen.adversarial_tokens,
        warm_up_tokens=chosen.warm_up_tokens,
        seed=chosen.seed,
        **limit,
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

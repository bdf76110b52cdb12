"""`python -m bench.drafters`: what each drafter brings, along the model's own texts and over links.

replay: the model in a folder that `hat split` wrote answers held-out prompts once, and every
drafter is replayed along these answers: tokens per round by kind of prompt, greedy and sampled. No
clock is in it, so the machine may be busy.

live: the default beside no drafting, n-gram, the paper's configuration and other ways to use the
time of a round trip, over shaped links, and on text that nobody can foresee. Wants a quiet machine.

live-tables: tables of several results of `live` together.
"""

import argparse
import sys
from pathlib import Path

import msgspec
import torch

from bench.drafters.chart import drafters_chart
from bench.drafters.drafts.default import MadeUpTimes
from bench.drafters.evaluation import Plan, evaluate
from bench.drafters.live_command import add_live, add_live_tables
from bench.drafters.tables import tables
from bench.drafters.texts.cases import group_names
from bench.drafters.texts.choosing import RULES
from bench.drafters.texts.kept import Writing
from bench.receipts import live_receipt
from bench.report.links_chart import standalone
from bench.report.marked import write_between
from process.errors import ConfigError, UserError

MARK = "bench-drafters"
"""The part of a Markdown file that has the tables of `replay`."""


def main() -> int:
    """Run a sub-command; errors of the user's are one line."""
    chosen = _arguments()
    try:
        done: int = chosen.run(chosen)
        return done
    except (UserError, ConfigError, ValueError, OSError) as error:
        print(f"bench.drafters: {error}", file=sys.stderr)
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.drafters", description=__doc__)
    commands = parser.add_subparsers(required=True)
    _add_replay(commands.add_parser("replay", help="drafters along the model's own answers"))
    add_live(commands.add_parser("live", help="the default over shaped links"))
    add_live_tables(commands.add_parser("live-tables", help="of several results of `live`"))
    return parser.parse_args()


def _add_replay(replay: argparse.ArgumentParser) -> None:
    replay.set_defaults(run=_replay)
    replay.add_argument("bundles", type=Path, help="folder that `hat split` wrote")
    replay.add_argument(
        "--adapter",
        dest="adapters",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="an adapter to try, as `hat adapter train` writes it; may be repeated",
    )
    replay.add_argument("--groups", help="kinds of prompts with commas between; default: all")
    replay.add_argument("--per-group", type=int, default=10, help="prompts of each kind")
    replay.add_argument("--rules", default=",".join(RULES), help="default: %(default)s")
    replay.add_argument("--max-tokens", type=int, default=100, help="of an answer")
    replay.add_argument("--lengths", default="4,6", help="tokens of a draft; default: 4,6")
    replay.add_argument(
        "--round-ms",
        type=float,
        default=1e3 * MadeUpTimes().round_s,
        help="of a round without a draft, by which the default decides; default: %(default)g",
    )
    replay.add_argument(
        "--step-ms",
        type=float,
        default=1e3 * MadeUpTimes().step_s,
        help="of one step of an adapter, or of its whole block; default: %(default)g",
    )
    replay.add_argument(
        "--repetition-penalty", type=float, default=1.0, help="of all answers; default: 1, none"
    )
    replay.add_argument("--seed", type=int, default=0, help="of prompts and of sampled answers")
    replay.add_argument("--threads", type=int, default=1, help="of torch")
    replay.add_argument("--work", type=Path, default=Path(".hat/drafters"), help="keeps answers")
    replay.add_argument("--out", type=Path, help="result file")
    replay.add_argument("--table", type=Path, help=f"Markdown file with a part {MARK}")
    replay.add_argument("--chart", type=Path, help="picture to draw, FILE.svg")


def _replay(chosen: argparse.Namespace) -> int:
    torch.set_num_threads(chosen.threads)
    plan = _plan(chosen)
    command = ["python", "-m", "bench.drafters", *sys.argv[1:]]
    found = evaluate(plan, live_receipt(command, chosen.seed), _say)
    text = tables(found)
    print(text)
    if chosen.chart is not None:
        drawn = drafters_chart(found)
        chosen.chart.write_text(standalone(drawn), "utf-8")
        text = f"![{drawn.caption}]({chosen.chart.name})\n\n{text}"
    if chosen.out is not None:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    if chosen.table is not None:
        write_between(chosen.table, MARK, text)
    return 0


def _plan(chosen: argparse.Namespace) -> Plan:
    """What the flags ask for.

    Raises:
        ConfigError: a flag that cannot be meant.
    """
    rules = tuple(chosen.rules.split(","))
    if unknown := [rule for rule in rules if rule not in RULES]:
        raise ConfigError(f"--rules: expected some of {', '.join(RULES)}, got {unknown[0]}")
    adapters: dict[str, Path] = {}
    for given in chosen.adapters:
        name, found, folder = given.partition("=")
        if not (name and found and folder):
            raise ConfigError(f"--adapter: expected NAME=FOLDER, got {given}")
        adapters[name] = Path(folder)
    try:
        lengths = tuple(int(length) for length in chosen.lengths.split(","))
    except ValueError:
        lengths = ()
    if not lengths or min(lengths) < 1:
        raise ConfigError(f"--lengths: expected numbers of 1 or more, got {chosen.lengths}")
    if chosen.per_group < 1 or chosen.max_tokens < 2:
        raise ConfigError("expected 1 or more prompts of each kind and answers of 2 or more tokens")
    if not chosen.repetition_penalty > 0.0:
        raise ConfigError(
            f"--repetition-penalty: expected more than 0, got {chosen.repetition_penalty:g}"
        )
    groups = group_names(chosen.bundles) if chosen.groups is None else chosen.groups.split(",")
    return Plan(
        bundles=chosen.bundles,
        groups=tuple(groups),
        per_group=chosen.per_group,
        writing=Writing(rules, chosen.max_tokens, chosen.seed, chosen.repetition_penalty),
        folder=chosen.work,
        adapters=adapters,
        lengths=lengths,
        times=MadeUpTimes(chosen.round_ms / 1e3, step_s=chosen.step_ms / 1e3),
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

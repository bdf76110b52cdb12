"""`hat audit`: what a cloud learns from this split."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hat.bundle_cache import is_bundle_pair
from hat.early_interrupt import NothingBegun
from hat.errors import CommandError, extras_explained
from hat.progress import Bars

if TYPE_CHECKING:
    from hat.audit.run import Progress
    from hat.audit.thresholds import Sizes

_EPILOG = """
\b
Examples:
  hat audit llama-8b --text my-prompts.txt
  hat audit smollm2 --input-layers 0,1,2,4,8 --output-layers 0,1,2,4 --receipt smollm2.json

The cloud's part is played in this process: the rows are those that the link carries, through its
own codecs, and each attack gets them and what the cloud would have. Answers are the model's own,
half of them greedy. The text stays here, and the receipt holds no word of it.

A leak of known size is planted, and has to be found as large; labels are shuffled, and nothing may
be found. If that fails the exit code is 1. Thresholds are constants of the program and are
written into the receipt. docs/privacy.md says what the attacks are and what was left out.

--text and --known take text, or a .jsonl file of objects with a "text" or a "prompt".
"""


_FEWEST_PAIRS = 16


class _Numbers(click.ParamType[tuple[int, ...]]):
    name = "numbers"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = str(value).split(",")
        if not all(word.strip().isdecimal() for word in words):
            self.fail(f"expected numbers such as 0,1,2, got {value!r}", param, ctx)
        return tuple(dict.fromkeys(int(word) for word in words))


@click.command(epilog=_EPILOG)
@click.argument("bundles")
@click.option("--text", metavar="FILE", help="What is said; left out: questions of Spec-Bench.")
@click.option(
    "--known",
    metavar="FILE",
    help="What an attacker has sent himself, to learn from; left out: two books.",
)
@click.option(
    "--input-layers",
    type=_Numbers(),
    metavar="N,...",
    help="Cut there; left out: where the bundles are.",
)
@click.option("--output-layers", type=_Numbers(), metavar="N,...", help="As above.")
@click.option(
    "--documents",
    type=click.IntRange(min=4, max=1 << 16),
    default=16,
    metavar="N",
    help="How many are drawn from the text.  [default: 16]",
)
@click.option(
    "--known-pairs",
    type=_Numbers(),
    metavar="N,...",
    help="Pairs of rows and tokens that maps are learnt from.  [default: 256,1024,4096]",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0, max=1 << 30),
    default=0,
    metavar="N",
    help="Draws documents, answers and starts.  [default: 0]",
)
@click.option(
    "--receipt",
    metavar="FILE",
    help="Written after every part; one of an audit that was ended goes on.",
)
@click.option("--json", "as_json", is_flag=True, help="The receipt instead of tables.")
def audit(bundles: str, as_json: bool, **parameters: Any) -> int:
    """Measure what a cloud learns of your texts from this split.

    BUNDLES is the folder that `hat split` wrote.
    """
    for name in ("text", "known", "receipt"):
        if parameters[name] is not None and not parameters[name].strip():
            raise click.UsageError(f"--{name}: expected a file, got {parameters[name]!r}")
    if not is_bundle_pair(Path(bundles)):
        raise CommandError(f"{bundles}: expected a folder that `hat split` wrote")
    with extras_explained(), NothingBegun():
        import msgspec

        from hat.audit.report import rendered
        from hat.audit.run import AuditOptions
        from hat.audit.run import audit as run_audit
        from hat.audit.thresholds import Sizes
    receipt = parameters["receipt"]
    options = AuditOptions(
        bundles=Path(bundles),
        text=_given_or_shipped(parameters["text"], "spec_bench.jsonl"),
        known=_given_or_shipped(parameters["known"], "books.txt"),
        command=_command(bundles, parameters),
        input_layers=parameters["input_layers"] or (),
        output_layers=parameters["output_layers"] or (),
        seed=parameters["seed"],
        sizes=_sizes(Sizes(num_documents=parameters["documents"]), parameters["known_pairs"]),
        receipt=None if receipt is None else Path(receipt),
    )
    with extras_explained(), Bars() as bars:
        made = run_audit(options, _shown_on(bars))
    text = msgspec.json.encode(made).decode() if as_json else rendered(made)
    click.echo(text)
    return 0 if made.is_sound else 1


def _sizes(sizes: "Sizes", known_pairs: tuple[int, ...] | None) -> "Sizes":
    import msgspec

    if known_pairs is None:
        return sizes
    if min(known_pairs) < _FEWEST_PAIRS:
        raise CommandError(f"expected {_FEWEST_PAIRS} known pairs or more, got {min(known_pairs)}")
    return msgspec.structs.replace(sizes, known_pairs=tuple(sorted(known_pairs)))


def _given_or_shipped(file: str | None, name: str) -> Path:
    if file is not None:
        return Path(file)
    from bench.data_folder import data_folder
    from bench.workloads.data_files import DATA

    return data_folder(DATA) / name


def _command(bundles: str, parameters: dict[str, Any]) -> str:
    """What gives the same figures, with names of files alone."""
    files = {name: parameters[name] for name in ("text", "known")}
    numbers = ("input_layers", "output_layers", "known_pairs")
    layers = {name: parameters[name] for name in numbers}
    given = {
        **{name: Path(file).name for name, file in files.items() if file is not None},
        **{name: ",".join(map(str, each)) for name, each in layers.items() if each is not None},
        "documents": parameters["documents"],
        "seed": parameters["seed"],
    }
    options = [f"--{name.replace('_', '-')} {value}" for name, value in given.items()]
    return " ".join(["hat audit", Path(bundles).name, *options])


def _shown_on(bars: Bars) -> "Progress":
    """A bar on a terminal; elsewhere a line for each setting."""
    shown = ""

    def show(what: str, num_done: int, num_all: int) -> None:
        nonlocal shown
        if sys.stderr.isatty():
            if not shown:
                bars.begin(what, num_all, unit="part")
            bars.say(what)
            bars.reach(num_done, num_all)
        elif what != shown:
            click.echo(f"{what} ({num_done} of {num_all})", err=True)
        shown = what

    return show

"""`hat adapter import`: a drafting head that others have published, into a device bundle."""

from pathlib import Path
from tempfile import TemporaryDirectory

import click

from hat.commands.adapter_cost import measured_cost, round_option
from hat.errors import failures_explained
from hat.settings.options import FiniteRange

_EPILOG = """
\b
Examples:
  hat adapter import yuhuili/EAGLE-LLaMA3.1-Instruct-8B llama-8b
  hat adapter import ./EAGLE3-LLaMA3.1-Instruct-8B llama-8b/device

HEAD is a folder or a hub's repository with an EAGLE-1, EAGLE-2 or EAGLE-3 head, BUNDLE a device
bundle or the folder that `hat split` wrote. An adapter that is there is replaced. A head fits the
one model that it was made for; docs/importing.md says which heads fit which models.
"""


def _depths(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    parts = value.split(",") if value else []
    if not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"expected whole numbers with commas between, got {value!r}")
    return tuple(int(part) for part in parts)


@click.command("import", epilog=_EPILOG)
@click.argument("head")
@click.argument("bundle")
@click.option(
    "--stop-threshold",
    type=FiniteRange(0, 1),
    metavar="P",
    help="Drafts end before a token less likely than this; left out: by what a draft step takes.",
)
@click.option(
    "--max-draft-tokens",
    type=click.IntRange(1, 128),
    default=6,
    metavar="N",
    help="And after so many.  [default: 6]",
)
@click.option(
    "--depths",
    default="",
    callback=_depths,
    metavar="N,N,N",
    help="After how many layers an EAGLE-3 head reads rows, where its files do not say it clearly.",
)
@round_option
def import_command(
    head: str,
    bundle: str,
    stop_threshold: float | None,
    max_draft_tokens: int,
    depths: tuple[int, ...],
    round_ms: float,
) -> None:
    """Import a published EAGLE head as the drafter of a device bundle.

    The head's weights are converted, and the time of a draft step is measured; nothing is trained.
    Which drafter guesses never changes an answer.
    """
    with failures_explained(), TemporaryDirectory(prefix="hat-import-") as name:
        from adapters.importing.conversion import ImportLimits, import_head, with_cost
        from adapters.install import install_adapter
        from adapters.measuring.report import cost_words

        limits = ImportLimits(stop_threshold, max_draft_tokens)
        import_head(head, Path(bundle), Path(name), limits, depths)
        cost = measured_cost(Path(bundle), round_ms)(Path(name))
        card = with_cost(Path(name), cost, stop_threshold)
        install_adapter(Path(bundle), Path(name))
    assert card.head is not None, "it was imported"
    assert card.head.cost is not None, "it was measured or assumed"
    reads = " and ".join(str(depth) for depth in card.head.depths)
    drafted = card.draft_vocabulary_size or card.shape.vocab_size
    click.echo(
        f"{card.kind} head of {head} is in {bundle}: it reads rows after {reads} layers and drafts "
        f"{drafted} of {card.shape.vocab_size} tokens"
    )
    chosen = "by that" if stop_threshold is None else "as was said"
    click.echo(
        f"{cost_words(card.head.cost)}; {chosen}, drafts of a fixed length end before a token less "
        f"likely than {card.stop_threshold:g}; `hat device` ends each where it stops paying"
    )

"""What a reader must know before believing a number."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.records import UNFINISHED, LinkRecord, Receipt
from bench.report.figures import agreements
from bench.report.groups import LIVE, ArmResult, Group, Source

# A machine of n cores with more than this many running programs per core was not quiet.
QUIET_LOAD_PER_CORE = 0.5
# A link whose measured rate is further from the asked one was not the link asked for.
RATE_TOLERANCE = 0.15

_POOR_LINKS = {
    "tcp": "an unprivileged TCP relay, which hides TCP's own dynamics: loss and slow start do not "
    "show",
    "loopback": "loopback: there is no link to speak of",
}


@dataclass(frozen=True, slots=True)
class Caution:
    """A line at the top of the page. `is_wrong`: numbers are wrong, not merely to be read so."""

    text: str
    anchor: str | None = None
    is_wrong: bool = False


def cautions(sources: Sequence[Source], groups: Sequence[Group]) -> list[Caution]:
    """All of them, what is wrong first."""
    wrong = [Caution(text, each.anchor, True) for each in groups for text in _wrong(each)]
    return [
        *wrong,
        *_of_paper(sources),
        *_of_sources(sources),
        *_of_links([group for group in groups if group.kind == LIVE]),
        *_of_models(groups),
    ]


def _wrong(group: Group) -> Iterator[str]:
    where = f"at {group.name} ({group.kind})"
    for arm, each in agreements(group).items():
        if each.num_different:
            text = f"{arm} and {each.reference} gave different texts to {each.num_different} of "
            yield f"{text}{each.num_compared} requests {where}."
    for result in group.arms:
        if result.unsettled:
            yield f"{result.arm} {where}: {result.unsettled[0]}."
        if not result.requests:
            yield f"{result.arm} has no requests {where}."
        if errors := _errors(result):
            text = f"{len(errors)} of {len(result.requests)} requests of {result.arm} failed "
            yield f"{text}{where}: {', '.join(sorted(set(errors)))}."


def _errors(result: ArmResult) -> list[str]:
    """Of failed requests; those that a cut left under way are told as unsettled."""
    ended = [each for each in result.requests if each.error != UNFINISHED]
    return [each.error or "no text" for each in ended if each.error or not each.emissions]


def _of_paper(sources: Sequence[Source]) -> Iterator[Caution]:
    beside = [each for source in sources for each in source.run.comparisons]
    if num := sum(each.is_far_off and not each.note for each in beside):
        text = f"Far from the paper's figures without an explanation: {num}."
        yield Caution(text, "paper", True)


def _of_sources(sources: Sequence[Source]) -> Iterator[Caution]:
    commits = {source.number: source.run.receipt.commit for source in sources}
    if dirty := [source for source in sources if commits[source.number].endswith("-dirty")]:
        yield _of_files(dirty, "measured with changes that are not in the commit.")
    if unknown := [source for source in sources if " " in commits[source.number]]:
        yield _of_files(unknown, "the commit is not known.")
    if loaded := [source for source in sources if _is_loaded(source.run.receipt)]:
        loads = ", ".join(f"{source.run.receipt.load_average:.1f}" for source in loaded)
        text = f"other programs ran at the same time (load average {loads} before it began); "
        yield _of_files(loaded, f"{text}times are upper bounds.")
    if len({commit.removesuffix("-dirty") for commit in commits.values()}) > 1:
        yield Caution("The files were made by different commits.", "receipts")


def _of_files(sources: Sequence[Source], text: str) -> Caution:
    names = ", ".join(source.path.name for source in sources)
    return Caution(f"{names}: {text}", f"source-{sources[0].number}")


def _is_loaded(receipt: Receipt) -> bool:
    return (receipt.load_average or 0.0) > QUIET_LOAD_PER_CORE * receipt.num_cores


def _of_links(live: Sequence[Group]) -> Iterator[Caution]:
    for kind, what in _POOR_LINKS.items():
        if found := [group for group in live if group.like.link.kind == kind]:
            num = "One setting" if len(found) == 1 else f"{len(found)} settings"
            yield Caution(f"{num} ran over {what}.", found[0].anchor)
    for group in live:
        cells = [cell for result in group.arms for cell in result.cells]
        if off := sorted({text for cell in cells for text in _off(cell.link)}):
            text = f"{group.name}: the link as measured is not the one asked for"
            yield Caution(f"{text} ({', '.join(off)}).", group.anchor)


def _off(link: LinkRecord) -> Iterator[str]:
    uplink = (link.uplink_bytes_per_s, link.measured_uplink_bytes_per_s)
    downlink = (link.downlink_bytes_per_s, link.measured_downlink_bytes_per_s)
    for way, (asked, measured) in (("uplink", uplink), ("downlink", downlink)):
        if asked and measured and abs(measured / asked - 1) > RATE_TOLERANCE:
            yield f"{way} {8e-6 * measured:.3g} instead of {8e-6 * asked:.3g} Mbit/s"


def _of_models(groups: Sequence[Group]) -> Iterator[Caution]:
    without = [group for group in groups if not group.like.model.has_real_weights]
    random = sorted({group.like.model.name for group in without if group.kind == LIVE})
    assumed = sorted({group.like.model.name for group in without if group.kind != LIVE})
    if random:
        text = f"{', '.join(random)}: random weights. Acceptance is not shown, and times between "
        yield Caution(text + "tokens of arms that draft say nothing about a trained model.")
    if assumed:
        text = f"{', '.join(assumed)}: simulated without weights. How many drafts are accepted is "
        yield Caution(text + "an assumption, and so are times between tokens of arms that draft.")

"""What a reader must know before believing a number."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.records import UNFINISHED, LinkRecord, Receipt
from bench.report.figures import agreements
from bench.report.groups import LIVE, Group, Source

# A machine of n cores with more than this many running programs per core was not quiet.
QUIET_LOAD_PER_CORE = 0.5
# A link whose measured rate is further from the asked one was not the link asked for.
RATE_TOLERANCE = 0.15


@dataclass(frozen=True, slots=True)
class Caution:
    """A line at the top of the page. `is_wrong`: numbers are wrong, not merely to be read so."""

    text: str
    is_wrong: bool = False
    anchor: str | None = None


def cautions(sources: Sequence[Source], groups: Sequence[Group]) -> list[Caution]:
    """All of them, what is wrong first."""
    wrong = [
        Caution(f"{text} at {group.name} ({group.kind}){why}.", True, anchor_of(group))
        for tell in (_of_texts, _of_unsettled, _of_failures)
        for group in groups
        for text, why in tell(group)
    ]
    found = [*wrong, *_of_paper(sources), *_of_sources(sources)]
    return [*found, *_of_links(groups), *_of_models(groups)]


def _of_texts(group: Group) -> Iterator[tuple[str, str]]:
    for arm, each in agreements(group).items():
        if each.num_different:
            text = f"{arm} and {each.reference} gave different texts to {each.num_different} of "
            yield f"{text}{each.num_compared} requests", ""


def _of_unsettled(group: Group) -> Iterator[tuple[str, str]]:
    for result in group.arms:
        states = [cell.steady for cell in result.cells if cell.steady is not None]
        if restless := [steady for steady in states if not steady.is_settled]:
            yield result.arm, f": {restless[0].text}"


def _of_failures(group: Group) -> Iterator[tuple[str, str]]:
    for result in group.arms:
        # A cut leaves requests under way, of which `_of_unsettled` tells.
        ended = [request for request in result.requests if request.error != UNFINISHED]
        failed = [each for each in ended if each.error is not None or not each.emissions]
        if not result.requests:
            yield f"{result.arm} has no requests", ""
        elif failed:
            codes = ", ".join(sorted({request.error or "no text" for request in failed}))
            text = f"{len(failed)} of {len(result.requests)} requests of {result.arm} failed"
            yield text, f": {codes}"


def _of_paper(sources: Sequence[Source]) -> Iterator[Caution]:
    beside = [each for source in sources for each in source.run.comparisons]
    if unexplained := [each for each in beside if each.is_far_off and not each.note]:
        text = f"Far from the paper's figures without an explanation: {len(unexplained)}."
        yield Caution(text, True, "paper")


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
        yield Caution("The files were made by different commits.", False, "receipts")


def _of_files(sources: Sequence[Source], text: str) -> Caution:
    names = ", ".join(source.path.name for source in sources)
    return Caution(f"{names}: {text}", False, f"source-{sources[0].number}")


def _is_loaded(receipt: Receipt) -> bool:
    load = receipt.load_average
    return load is not None and load > QUIET_LOAD_PER_CORE * receipt.num_cores


def _of_links(groups: Sequence[Group]) -> Iterator[Caution]:
    live = [group for group in groups if group.kind == LIVE]
    tcp = [group for group in live if group.link.kind == "tcp"]
    if tcp:
        text = f"{_settings(len(tcp))} ran over an unprivileged TCP relay, which hides TCP's own "
        text += "dynamics: loss and slow start do not show."
        yield Caution(text, False, anchor_of(tcp[0]))
    loopback = [group for group in live if group.link.kind == "loopback"]
    if loopback:
        text = f"{_settings(len(loopback))} ran over loopback: there is no link to speak of."
        yield Caution(text, False, anchor_of(loopback[0]))
    for group in live:
        off = {each for result in group.arms for cell in result.cells for each in _off(cell.link)}
        if off:
            text = f"{group.name}: the link as measured is not the one asked for"
            yield Caution(f"{text} ({', '.join(sorted(off))}).", False, anchor_of(group))


def _off(link: LinkRecord) -> Iterator[str]:
    uplink = (link.uplink_bytes_per_s, link.measured_uplink_bytes_per_s)
    downlink = (link.downlink_bytes_per_s, link.measured_downlink_bytes_per_s)
    for way, (asked, measured) in (("uplink", uplink), ("downlink", downlink)):
        if asked and measured and abs(measured / asked - 1) > RATE_TOLERANCE:
            yield f"{way} {8e-6 * measured:.3g} instead of {8e-6 * asked:.3g} Mbit/s"


def _of_models(groups: Sequence[Group]) -> Iterator[Caution]:
    without = [group for group in groups if not group.model.has_real_weights]
    random = sorted({group.model.name for group in without if group.kind == LIVE})
    assumed = sorted({group.model.name for group in without if group.kind != LIVE})
    if random:
        text = f"{', '.join(random)}: random weights. Acceptance is not shown, and times between "
        yield Caution(text + "tokens of arms that draft say nothing about a trained model.")
    if assumed:
        text = f"{', '.join(assumed)}: simulated without weights. How many drafts are accepted is "
        yield Caution(text + "an assumption, and so are times between tokens of arms that draft.")


def anchor_of(group: Group) -> str:
    """Where the page has this setting."""
    return f"setting-{group.number}"


def _settings(number: int) -> str:
    return "One setting" if number == 1 else f"{number} settings"

"""One model over several links: the figures of a Markdown table, and of the README's chart."""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from bench import measures
from bench.arms import NO_ADAPTER
from bench.receipts import WITHOUT_AVX512
from bench.records import CLOUD_ON, RequestRecord
from bench.report.figures import ReportError, mean_tbt_s
from bench.report.formats import NONE
from bench.report.groups import LIVE, SIM, ArmResult, Group, Source
from bench.report.page import render

MARK = "bench-links"
"""Of the tables in a document."""

ARMS = ("cloud-only", "device-only", "u-shape", "hat")


@dataclass(frozen=True, slots=True)
class Computed:
    """A setting again, with a cloud's steps computed for a GPU."""

    server: str
    group: Group


@dataclass(frozen=True, slots=True)
class Category:
    """What was drafted and accepted in the answers to one kind of prompts."""

    name: str
    prompt_tokens: float
    """The median."""
    greedy: tuple[RequestRecord, ...]
    sampled: tuple[RequestRecord, ...]


def same_model(groups: Sequence[Group]) -> list[Group]:
    """The first live setting over a link, and those that differ from it in the link alone.

    Raises:
        ReportError: no live setting over a link.
    """
    live = [group for group in groups if group.kind == LIVE]
    linked = [group for group in live if group.like.link.uplink_bytes_per_s is not None]
    if not linked:
        raise ReportError("expected a live result over a link with a rate")
    first = linked[0].like
    return [
        group
        for group in linked
        if (group.like.model, group.like.workload) == (first.model, first.workload)
    ]


def computed(group: Group, groups: Sequence[Group]) -> Computed | None:
    """The same setting with a computed cloud, if one was simulated."""
    for other in groups:
        setting, found, server = other.like.setting.partition(CLOUD_ON)
        place = (other.kind, other.like.model.name, setting)
        if found and place == (SIM, group.like.model.name, group.like.setting):
            return Computed(server, other)
    return None


def categories(groups: Sequence[Group]) -> list[Category]:
    """Of the method's answers: greedy and sampled ones, each from the setting with the most.

    None where prompts are no questions.
    """
    first = same_model(groups)[0].like
    if not first.workload.is_chat:
        return []
    results = [
        (group, result)
        for group in groups
        if group.kind == LIVE and group.like.model == first.model
        if (result := group.arm("hat")) is not None
    ]
    most = [
        max(
            (result for group, result in results if bool(group.like.workload.temperature) == drawn),
            key=lambda result: len(result.answered),
            default=None,
        )
        for drawn in (False, True)
    ]
    greedy, sampled = [result.answered if result else [] for result in most]
    names = dict.fromkeys(request.category for request in [*greedy, *sampled])
    return [_category(name, greedy, sampled) for name in sorted(names)]


def _category(
    name: str, greedy: Sequence[RequestRecord], sampled: Sequence[RequestRecord]
) -> Category:
    kept = [tuple(one for one in all_ if one.category == name) for all_ in (greedy, sampled)]
    lengths = [one.prompt_tokens for one in (*kept[0], *kept[1])]
    return Category(name, statistics.median(lengths), kept[0], kept[1])


def all_of(categories: Sequence[Category]) -> Category:
    """All of them as one."""
    greedy = tuple(one for each in categories for one in each.greedy)
    sampled = tuple(one for each in categories for one in each.sampled)
    lengths = [one.prompt_tokens for one in (*greedy, *sampled)]
    return Category("all", statistics.median(lengths), greedy, sampled)


def length_of(requests: Sequence[RequestRecord]) -> str:
    """Tokens per round, the model's own counted."""
    length = measures.accept_length(requests)
    return NONE if length is None else f"{length:.2f}"


def drafted_per_round(requests: Sequence[RequestRecord]) -> float:
    """How many tokens were guessed; 0 without a round."""
    num_rounds = sum(one.rounds for one in requests)
    return sum(sum(one.drafted_by_position) for one in requests) / max(1, num_rounds)


def accepted_share(requests: Sequence[RequestRecord]) -> float | None:
    """Of what was guessed; None without a guess."""
    num_drafted = sum(sum(one.drafted_by_position) for one in requests)
    num_accepted = sum(sum(one.accepted_by_position) for one in requests)
    return num_accepted / num_drafted if num_drafted else None


def tokens_per_s(result: ArmResult) -> float | None:
    """Behind the first piece of text."""
    mean_s = mean_tbt_s(result.answered)
    return 1 / mean_s if mean_s else None


def cloud_share(result: ArmResult) -> float | None:
    """The part of an answer's time that the cloud computes, prompt included."""
    telling = [one for one in result.answered if one.seconds.get("total")]
    total_s = sum(one.seconds["total"] for one in telling)
    computed_s = sum(one.seconds.get("cloud_compute", 0.0) for one in telling)
    return computed_s / total_s if telling else None


def link_name(group: Group) -> str:
    """Its rates and its round trip, as asked for."""
    link = group.like.link
    up, down = (
        f"{8e-6 * rate:g}" if rate else "any"
        for rate in (link.uplink_bytes_per_s, link.downlink_bytes_per_s)
    )
    return f"{up} / {down} Mbit/s, {2000 * link.delay_s:g} ms"


def links_tables(sources: Sequence[Source], groups: Sequence[Group]) -> str:
    """Markdown: a row per link and arm, a row per category of prompts, and what to know of both.

    Raises:
        ReportError: no live setting over a link.
    """
    shown = same_model(groups)
    name = shown[0].like.model.name
    of_model = [group for group in groups if group.like.model.name == name]
    used = {each.source.number for group in of_model for arm in group.arms for each in arm.placed}
    method = next((arm for group in shown if (arm := group.arm("hat")) is not None), None)
    notes = method.cells[0].notes if method else []
    return render(
        "links.md.jinja",
        groups=shown,
        computed={group.number: computed(group, groups) for group in shown},
        categories=categories(groups),
        has_no_adapter=NO_ADAPTER in notes,
        sources=[source for source in sources if source.number in used],
        sampling=_sampling(shown[0], groups),
        arms=ARMS,
        links=sys.modules[__name__],
        without_avx512=WITHOUT_AVX512,
    )


def _sampling(shown: Group, groups: Sequence[Group]) -> str:
    drawn = [
        group.like.workload
        for group in groups
        if group.like.model == shown.like.model and group.like.workload.temperature
    ]
    return f"temperature {drawn[0].temperature:g}, top_p {drawn[0].top_p:g}" if drawn else ""

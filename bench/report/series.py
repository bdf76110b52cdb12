"""Settings that differ in one thing only, put in a row: what the curves are drawn from."""

import statistics
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from bench import measures
from bench.report.formats import link_asked
from bench.report.groups import Group
from bench.report.summary import Limits, Summary, summarise

# With fewer, a curve says no more than the table.
FEWEST_POINTS = 3
# So many arrival rates are a sweep, whose settings are points of its curves.
FEWEST_RATES = 4


@dataclass(frozen=True, slots=True)
class LoadLine:
    """One arm on one number of replicas: its figures by arrivals per second, in their order."""

    arm: str
    num_replicas: int
    points: tuple[tuple[float, Summary], ...]


@dataclass(frozen=True, slots=True)
class LoadSeries:
    """Growing load; all else is the same in its groups.

    Lines are of one arm on several numbers of replicas, or of several arms on one number.
    """

    title: str
    groups: tuple[Group, ...]
    lines: tuple[LoadLine, ...]

    @property
    def is_by_replicas(self) -> bool:
        """Whether lines differ in the number of replicas."""
        return len({line.num_replicas for line in self.lines}) > 1


@dataclass(frozen=True, slots=True)
class Curve:
    """One arm's points (x, y), in order of x. `scatter` are single requests, where there are."""

    arm: str
    points: tuple[tuple[float, float], ...]
    scatter: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class CurveSet:
    """Curves of all arms over one quantity, and the settings they were taken from."""

    title: str
    groups: tuple[Group, ...]
    curves: tuple[Curve, ...]


def load_series(groups: Iterable[Group], limits: Limits) -> list[LoadSeries]:
    """Only where at least four arrival rates were run; an arm has a line from three on."""
    found = []
    for similar in _similar(groups, _but_load):
        if len({group.workload.requests_per_s for group in similar} - {None}) < FEWEST_RATES:
            continue
        replicas = sorted({group.num_replicas for group in similar})
        title = f"{_title(similar[0])}, {similar[0].workload.name}"
        by_arm = [
            [
                line
                for num_replicas in replicas
                if len((line := _load_line(similar, arm, num_replicas, limits)).points)
                >= FEWEST_POINTS
            ]
            for arm in _arm_names(similar)
        ]
        if len(replicas) == 1:
            lines = tuple(line for of_arm in by_arm for line in of_arm)
            found.append(LoadSeries(title, tuple(similar), lines))
        else:
            found += [
                LoadSeries(f"{lines[0].arm}, {title}", tuple(similar), tuple(lines))
                for lines in by_arm
                if lines
            ]
    return found


def _load_line(groups: Sequence[Group], arm: str, num_replicas: int, limits: Limits) -> LoadLine:
    points = [
        (rate, summarise(result, limits))
        for group in groups
        if group.num_replicas == num_replicas
        if (result := group.arm(arm)) and (rate := group.workload.requests_per_s)
    ]
    return LoadLine(arm, num_replicas, tuple(sorted(points, key=lambda point: point[0])))


def ttft_over_prompt(groups: Iterable[Group]) -> list[CurveSet]:
    """Every answered request; the curve goes through the median at each length, or near it."""
    found = []
    for similar in _similar(groups, _but_prompt):
        curves = []
        for arm in _arm_names(similar):
            results = [result for group in similar if (result := group.arm(arm))]
            scatter = sorted(
                (float(request.prompt_tokens), request.emissions[0][0])
                for result in results
                for request in result.answered
            )
            if len({tokens for tokens, _ in scatter}) >= FEWEST_POINTS:
                curves.append(Curve(arm, _medians(scatter), tuple(scatter)))
        if curves:
            title = _title(similar[0]) + _load_title(similar[0])
            found.append(CurveSet(title, tuple(similar), tuple(curves)))
    return found


def tbt_over_rtt(groups: Iterable[Group]) -> list[CurveSet]:
    """Mean TBT over the round trip, one point per setting, where round trips differ."""
    found = []
    for similar in _similar(groups, _but_delay):
        curves = []
        for arm in _arm_names(similar):
            points = [
                (statistics.median(measures.rtt_s(cell.link) for cell in result.cells), mean_s)
                for group in similar
                if (result := group.arm(arm)) and (mean_s := _mean_tbt_s(group, arm)) is not None
            ]
            if len({rtt_s for rtt_s, _ in points}) >= FEWEST_POINTS:
                curves.append(Curve(arm, tuple(sorted(points))))
        if curves:
            title = _title(similar[0], with_delay=False)
            found.append(CurveSet(title, tuple(similar), tuple(curves)))
    return found


def _mean_tbt_s(group: Group, arm: str) -> float | None:
    result = group.arm(arm)
    values = [v for r in result.answered for v in measures.tbt_s(r)] if result else []
    return statistics.fmean(values) if values else None


def _medians(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Of points in order of x: the median at each x, or of bins of equal numbers when many."""
    num_bins = 8
    xs = sorted({x for x, _ in points})
    if len(xs) <= num_bins:
        return tuple((x, statistics.median(y for at, y in points if at == x)) for x in xs)
    size = len(points) / num_bins
    bins = [points[round(i * size) : round((i + 1) * size)] for i in range(num_bins)]
    return tuple(
        (statistics.median(x for x, _ in each), statistics.median(y for _, y in each))
        for each in bins
        if each
    )


def _similar(groups: Iterable[Group], key_of: Callable[[Group], Hashable]) -> list[list[Group]]:
    """Groups with the same key, both in their order."""
    by_key: dict[Hashable, list[Group]] = {}
    for group in groups:
        by_key.setdefault(key_of(group), []).append(group)
    return list(by_key.values())


def _but_load(group: Group) -> Hashable:
    workload = group.workload
    return (group.kind, group.model.name, link_asked(group.link), workload.name, workload.arrivals)


def _but_prompt(group: Group) -> Hashable:
    workload = group.workload
    load = (workload.num_devices, workload.requests_per_s, group.num_replicas)
    return (group.kind, group.model.name, link_asked(group.link), load)


def _but_delay(group: Group) -> Hashable:
    link, workload = group.link, group.workload
    shape = (link.kind, link.uplink_bytes_per_s, link.downlink_bytes_per_s, link.trace, link.loss)
    asked = (workload.name, workload.num_devices, workload.requests_per_s, workload.temperature)
    return (group.kind, group.model.name, shape, asked, group.num_replicas)


def _arm_names(groups: Iterable[Group]) -> list[str]:
    """In the order in which the groups tell them, each once."""
    return list(dict.fromkeys(result.arm for group in groups for result in group.arms))


def _title(group: Group, with_delay: bool = True) -> str:
    link = link_asked(group.link)
    link = link if with_delay else link.partition(", round trip")[0]
    return f"{group.model.name}, {link}"


def _load_title(group: Group) -> str:
    workload = group.workload
    devices = f", {workload.num_devices} devices" if workload.num_devices > 1 else ""
    rate = workload.requests_per_s
    return devices if rate is None else f"{devices}, {rate:g} requests/s"

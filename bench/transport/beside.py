"""Congestion controls against each other: uploads, urgent messages beside them, a shared link."""

import subprocess
from collections.abc import Iterator, Sequence
from statistics import median

import msgspec
from msgspec.structs import replace

from bench.link.opening import open_link
from bench.link.shaped_link import LinkError, LinkKind, ShapedLink
from bench.link.spec import LinkSpec, link_text
from bench.machine import machine_lines
from bench.measures import percentile
from bench.transport.places import python_at, receiving
from bench.transport.uploader import Uploaded, Work

_MORE_S = 30.0


class Beside(msgspec.Struct, frozen=True, kw_only=True):
    """One way to upload, with urgent messages, over one link."""

    link: str
    arm: str
    tries: tuple[Uploaded, ...]

    @property
    def urgent_s(self) -> list[float]:
        """Of all tries; one without an answer counts as the longest."""
        found = [seconds for each in self.tries for seconds in each.urgent_s]
        return found + [max(found)] * sum(each.num_unanswered for each in self.tries)


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """Two uploads at the same time over one link."""

    link: str
    arms: tuple[str, str]
    tries: tuple[tuple[Uploaded, Uploaded], ...]


class Contest(msgspec.Struct, frozen=True, kw_only=True):
    """A result, as it is kept."""

    machine: tuple[str, ...]
    beside: tuple[Beside, ...]
    shared: tuple[Shared, ...]


def contest(
    links: Sequence[LinkSpec], congestions: Sequence[str], like: Work, num_tries: int
) -> Contest:
    """Each congestion control without an upload, with one over the same connection and over
    another, and each two uploads side by side; for the rest, works are as `like`.

    Raises:
        LinkError: no links between namespaces can be opened here, or a program ended.
    """
    beside: list[Beside] = []
    shared: list[Shared] = []
    for spec in links:
        works: dict[str, Work] = {}
        for name in congestions:
            works[f"{name}, no upload"] = replace(like, congestion=name, has_bulk=False)
        for name in congestions:
            for is_apart in (False, True):
                work = replace(like, congestion=name, is_urgent_apart=is_apart)
                works[f"{name}, {2 if is_apart else 1}"] = work
        found: dict[str, list[Uploaded]] = {arm: [] for arm in works}
        pairs = [(a, b) for i, a in enumerate(congestions) for b in congestions[i:]]
        both: dict[tuple[str, str], list[tuple[Uploaded, Uploaded]]] = {pair: [] for pair in pairs}
        for seed in range(num_tries):
            for arm, work in works.items():
                (result,) = _at_once(spec, seed, [work])
                found[arm].append(result)
            for pair in pairs:
                sides = [replace(like, congestion=n, urgent_every_s=0.0) for n in pair]
                first, second = _at_once(spec, seed, sides)
                both[pair].append((first, second))
        text = link_text(spec)
        beside += [Beside(link=text, arm=a, tries=tuple(tries)) for a, tries in found.items()]
        shared += [Shared(link=text, arms=p, tries=tuple(tries)) for p, tries in both.items()]
    return Contest(machine=tuple(machine_lines()), beside=tuple(beside), shared=tuple(shared))


def _at_once(spec: LinkSpec, seed: int, works: Sequence[Work]) -> list[Uploaded]:
    """What each got of a fresh link that they share."""
    with (
        open_link(spec, seed, kind=LinkKind.TAP) as link,
        receiving("bench.transport.receiver", link) as port,
    ):
        running = [_started(link, port, work) for work in works]
        try:
            answers = [p.communicate(timeout=w.seconds + _MORE_S)[0] for p, w in running]
        except subprocess.TimeoutExpired as error:
            raise LinkError("an upload did not end") from error
        finally:
            for process, _ in running:
                process.kill()
    return [msgspec.json.decode(answer, type=Uploaded) for answer in answers]


def _started(link: ShapedLink, port: str, work: Work) -> tuple[subprocess.Popen[str], Work]:
    words = ["bench.transport.uploader", link.cloud_host, port, msgspec.json.encode(work).decode()]
    return python_at(link.device_prefix, words), work


def tables(result: Contest) -> Iterator[str]:
    """Urgent messages beside uploads; shares of a link that two uploads share.

    A link without an upload is that of the first congestion control.
    """
    heads = ("link", "upload", "upload, Mbit/s", "urgent: p50, ms", "p99", "p99 / idle link's")
    yield _row(heads)
    yield "|---" * len(heads) + "|"
    idle_s: dict[str, float] = {}
    for each in result.beside:
        p99_s = percentile(each.urgent_s, 99)
        idle_s.setdefault(each.link, p99_s)
        rate = median(one.bulk_bytes_per_s for one in each.tries)
        cells = (each.link, each.arm, f"{8e-6 * rate:.2f}")
        times = (f"{1e3 * median(each.urgent_s):.0f}", f"{1e3 * p99_s:.0f}")
        yield _row((*cells, *times, f"{p99_s / idle_s[each.link]:.2f}"))
    yield ""
    yield _row(("link", "two uploads", "Mbit/s of each"))
    yield "|---|---|---|"
    for pair in result.shared:
        rates = (median(t[side].bulk_bytes_per_s for t in pair.tries) for side in (0, 1))
        got = ", ".join(f"{8e-6 * rate:.2f}" for rate in rates)
        yield _row((pair.link, " and ".join(pair.arms), got))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

"""The ends that time messages, the plan of pauses, and the tables of what they found."""

from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bench.transport.__main__ import main
from bench.transport.beside import Beside, Contest, Shared, tables
from bench.transport.first_chunk import NEW, WARM_S, Chunk, FirstChunks, Question, table
from bench.transport.receiver import PART, Arrivals, Parts
from bench.transport.uploader import Uploaded


@st.composite
def streams(draw: st.DrawFn) -> list[tuple[int, bytes]]:
    """Messages that are spread over connections, whose bytes come in pieces in any order."""
    num_lanes = draw(st.integers(1, 3))
    sizes = draw(st.lists(st.integers(1, 300), min_size=1, max_size=6))
    lanes = [b""] * num_lanes
    for message, size in enumerate(sizes):
        parts = [size // num_lanes + (lane < size % num_lanes) for lane in range(num_lanes)]
        for lane, part in enumerate(parts):
            if part:
                lanes[lane] += PART.pack(message, part, size) + bytes(part)
    pieces = []
    while any(lanes):
        lane = draw(st.sampled_from([lane for lane in range(num_lanes) if lanes[lane]]))
        length = draw(st.integers(1, 200))
        pieces.append((lane, lanes[lane][:length]))
        lanes[lane] = lanes[lane][length:]
    return pieces


@given(streams())
def test_a_message_has_come_with_its_last_byte_over_whichever_connection(pieces) -> None:
    arrivals = Arrivals()
    lanes: dict[int, Parts] = {}
    ended = []
    for lane, data in pieces:
        ended += lanes.setdefault(lane, Parts(arrivals)).on_data(data)
    assert sorted(ended) == list(range(len(ended)))
    assert not arrivals._missing
    assert pieces


def test_a_message_is_not_there_before_its_last_byte() -> None:
    parts = Parts(Arrivals())
    assert parts.on_data(PART.pack(7, 3, 3) + b"ab") == []
    assert parts.on_data(b"c" + PART.pack(8, 1, 1)) == [7]
    assert parts.on_data(b"d") == [8]


def test_every_pause_is_taken_from_a_warm_connection() -> None:
    question = Question(sizes=(100,), pauses_s=(1.0, 60.0), num_tries=2)
    steps = list(question.steps())
    counted = [(pause_s, size) for pause_s, size, counts in steps if counts]
    assert counted == [(pause_s, 100) for pause_s in (NEW, NEW, 0.0, 0.0, 1.0, 1.0, 60.0, 60.0)]
    warmed = [steps[i - 1] for i, (pause_s, _, _) in enumerate(steps) if pause_s > WARM_S]
    assert all(pause_s == WARM_S for pause_s, _, _ in warmed)


def _chunks() -> Iterator[Chunk]:
    for arm, after_s in (("one", 0.18), ("bbr", 0.09)):
        for pause_s, seconds in ((WARM_S, 0.09), (10.0, after_s)):
            tries = (seconds, 5.0, 0.01)
            model_s = 0.079 if pause_s else 0.0
            yield Chunk(
                link="up=20mbit",
                arm=arm,
                num_bytes=160_000,
                pause_s=pause_s,
                seconds=tries,
                model_s=model_s,
            )


def test_the_table_holds_medians_and_their_ratio_to_warm() -> None:
    lines = table(FirstChunks(machine=(), chunks=tuple(_chunks()))).splitlines()
    assert lines[0] == "| link | bytes | arm | warm | after 10 s | model: ramp |"
    assert lines[2:] == [
        "| up=20mbit | 160,000 | one | 90 | 180 (2.00) | 79 |",
        "| up=20mbit | 160,000 | bbr | 90 | 90 (1.00) | 79 |",
    ]
    least = table(FirstChunks(machine=(), chunks=tuple(_chunks())), min).splitlines()
    assert least[2] == "| up=20mbit | 160,000 | one | 10 | 10 (1.00) | 79 |"


def test_the_contest_counts_what_was_never_answered_as_the_longest() -> None:
    def uploaded(*urgent_s: float, num_unanswered: int = 0) -> Uploaded:
        return Uploaded(
            bulk_bytes_per_s=2.5e6,
            urgent_s=urgent_s,
            num_unanswered=num_unanswered,
            congestion="bbr",
        )

    idle = Beside(link="l", arm="cubic, no upload", tries=(uploaded(0.04, 0.04),))
    busy = Beside(link="l", arm="bbr, 1", tries=(uploaded(0.05, 0.2, num_unanswered=9),))
    assert busy.urgent_s == [0.05] + [0.2] * 10
    shared = Shared(link="l", arms=("bbr", "cubic"), tries=((uploaded(), uploaded()),))
    result = Contest(machine=(), beside=(idle, busy), shared=(shared,))
    lines = list(tables(result))
    assert "| l | bbr, 1 | 20.00 | 200 | 200 | 5.00 |" in lines
    assert "| l | bbr and cubic | 20.00, 20.00 |" in lines


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["first-chunk", "--arms", "one,pigeon"], "expected arms of one, two, four"),
        (["first-chunk", "--rates", "fast"], "up: expected a number"),
        (["contest", "--link", "speed=1"], "link: expected one of up, down"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(words: list[str], expected: str) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code != 0
    assert expected in result.output

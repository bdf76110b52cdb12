"""A download goes on from what is here, whatever happens to it, and ends with the right bytes."""

import hashlib
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.fetching.download import (
    Action,
    Ask,
    Check,
    Done,
    Download,
    Forget,
    LookAgain,
    Pause,
)
from device_runtime.fetching.listing import FetchError, Wanted

PATIENCE_S = 100.0
MOST_STEPS = 500


def wanted_of(contents: list[bytes]) -> tuple[Wanted, ...]:
    return tuple(
        Wanted((f"file{place}",), len(content), hashlib.sha256(content).hexdigest())
        for place, content in enumerate(dict.fromkeys(contents))
    )


@dataclass
class Event:
    """What becomes of one question: how many bytes come, and how it ends."""

    kind: str
    num_bytes: int


@dataclass
class Shell:
    """Performs what a download asks for, on a cloud and a disk that are made up."""

    contents: dict[str, bytes]
    disk: dict[str, bytearray]
    events: list[Event]
    now: float = 0.0
    asked: list[tuple[str, int]] = field(default_factory=list)
    num_sent: int = 0

    def run(self, files: tuple[Wanted, ...]) -> Action:
        """From the first action to the last; every event is used up first."""
        kept = {sha256: len(content) for sha256, content in self.disk.items()}
        download = Download(files, kept, self.now, PATIENCE_S)
        action = download.next()
        for _ in range(MOST_STEPS):
            if isinstance(action, Done | LookAgain):
                return action
            action = self.perform(action, download)
        raise AssertionError("it does not end")

    def perform(self, action: Action, download: Download) -> Action:
        match action:
            case Ask(file, start):
                return self.answer(file, start, download)
            case Check(file):
                return download.on_checked(hashlib.sha256(self.disk[file.sha256]).hexdigest())
            case Forget(file):
                self.disk.pop(file.sha256)
                download.on_forgotten()
            case Pause(seconds):
                assert seconds >= 0
                self.now += seconds
        return download.next()

    def answer(self, file: Wanted, start: int, download: Download) -> Action:
        here = self.disk.setdefault(file.sha256, bytearray())
        assert start == len(here), "what is asked for begins where what is here ends"
        self.asked.append((file.name, start))
        event = self.events.pop(0) if self.events else Event("whole", 1 << 20)
        if event.kind == "busy":
            return download.on_refused(503, 1.0, self.now, 0.5)
        if event.kind == "unreachable":
            return download.on_end("no route", self.now, 0.5)
        begin = 0 if event.kind == "from the start" else start
        download.on_head(begin, file.num_bytes)
        del here[begin:]
        content = self.contents[file.sha256]
        end = len(content) if event.kind == "whole" else min(len(content), begin + event.num_bytes)
        for place in range(begin, end, 7):
            piece = content[place : min(end, place + 7)]
            download.on_bytes(len(piece), self.now)
            here += piece
            self.num_sent += len(piece)
        return download.on_end("cut", self.now, 0.5)


events = st.builds(
    Event,
    st.sampled_from(["cut", "busy", "unreachable", "from the start", "whole"]),
    st.integers(0, 60),
)
all_contents = st.lists(st.binary(min_size=1, max_size=100), min_size=1, max_size=4)


@given(contents=all_contents, happens=st.lists(events, max_size=12), data=st.data())
def test_whatever_happens_on_the_way_the_files_are_whole_in_the_end(contents, happens, data):
    files = wanted_of(contents)
    by_hash = {hashlib.sha256(content).hexdigest(): content for content in contents}
    disk = {
        sha256: bytearray(content[: data.draw(st.integers(0, len(content)))])
        for sha256, content in by_hash.items()
    }
    num_here = sum(map(len, disk.values()))
    shell = Shell(by_hash, disk, list(happens))
    assert shell.run(files) == Done()
    assert {sha256: bytes(content) for sha256, content in shell.disk.items()} == by_hash
    num_bytes = sum(map(len, by_hash.values()))
    if all(event.kind != "from the start" for event in happens):
        assert shell.num_sent == num_bytes - num_here, "no byte is fetched twice"


@given(contents=all_contents, place=st.integers(0, 99), flips=st.integers(1, 255))
def test_a_damaged_beginning_on_the_disk_is_found_and_fetched_again(contents, place, flips):
    files = wanted_of(contents)
    by_hash = {hashlib.sha256(content).hexdigest(): content for content in contents}
    damaged = bytearray(contents[0])
    damaged[place % len(damaged)] ^= flips
    sha256 = hashlib.sha256(contents[0]).hexdigest()
    shell = Shell(by_hash, {sha256: damaged}, [])
    assert shell.run(files) == Done()
    assert bytes(shell.disk[sha256]) == contents[0]


@given(content=st.binary(min_size=1, max_size=50), extra=st.integers(1, 30))
def test_more_bytes_on_the_disk_than_the_file_has_are_removed(content, extra):
    files = wanted_of([content])
    by_hash = {files[0].sha256: content}
    shell = Shell(by_hash, {files[0].sha256: bytearray(content + bytes(extra))}, [])
    assert shell.run(files) == Done()
    assert bytes(shell.disk[files[0].sha256]) == content


def test_bytes_that_came_wrong_from_the_cloud_end_it_and_name_the_file():
    files = wanted_of([b"right"])
    shell = Shell({files[0].sha256: b"wrong"}, {}, [])
    with pytest.raises(FetchError, match=r"^file0 came with SHA-256 .*, and the manifest says"):
        shell.run(files)
    assert shell.asked == [("file0", 0)]


def test_one_byte_more_than_the_file_has_ends_it():
    [file] = wanted_of([b"12345"])
    download = Download([file], {}, 0.0, PATIENCE_S)
    download.on_head(0, None)
    download.on_bytes(5, 0.0)
    with pytest.raises(FetchError, match="file0 is longer than the 5 bytes it should be"):
        download.on_bytes(1, 0.0)


@pytest.mark.parametrize(
    ("start", "total", "words"),
    [(3, 6, "6"), (3, 4, "4"), (2, 5, "from byte 3, and 2 came"), (4, 5, "and 4 came")],
)
def test_an_answer_to_another_question_ends_it(start, total, words):
    [file] = wanted_of([b"12345"])
    download = Download([file], {file.sha256: 3}, 0.0, PATIENCE_S)
    with pytest.raises(FetchError, match=words):
        download.on_head(start, total)


@pytest.mark.parametrize(
    ("status", "words"),
    [(404, "HTTP 404 when asked for file0"), (302, "HTTP 302"), (401, "refused this device's")],
)
def test_a_status_that_will_not_change_ends_it(status, words):
    download = Download(wanted_of([b"12345"]), {}, 0.0, PATIENCE_S)
    with pytest.raises(FetchError, match=words):
        download.on_refused(status, 0.0, 0.0, 0.5)


def test_a_cloud_that_has_another_bundle_by_now_is_asked_for_that_one():
    download = Download(wanted_of([b"12345"]), {}, 0.0, PATIENCE_S)
    assert download.on_refused(410, 0.0, 0.0, 0.5) == LookAgain()


def test_bytes_that_the_cloud_does_not_know_of_are_forgotten_once():
    [file] = wanted_of([b"12345"])
    download = Download([file], {file.sha256: 3}, 0.0, PATIENCE_S)
    assert download.on_refused(416, 0.0, 0.0, 0.5) == Forget(file)
    download.on_forgotten()
    assert download.next() == Ask(file, 0)
    with pytest.raises(FetchError, match="HTTP 416"):
        download.on_refused(416, 0.0, 0.0, 0.5)


def test_a_cloud_cannot_take_back_for_ever_what_it_has_sent():
    """Each beginning would be new again, and nothing would ever be given up."""
    [file] = wanted_of([b"12345"])
    download = Download([file], {}, 0.0, PATIENCE_S)
    download.on_head(0, 5)
    download.on_bytes(1, 0.0)
    download.on_end("it ended", 0.0, 0.5)
    assert download.next() == Ask(file, 1)
    with pytest.raises(FetchError, match="HTTP 416"):
        download.on_refused(416, 0.0, 0.0, 0.5)


@given(st.lists(st.sampled_from(["refused", "nothing", "again"]), min_size=120, max_size=120))
def test_a_cloud_that_sends_nothing_new_is_given_up(answers):
    """Also one that begins anew each time and breaks off where it did before."""
    [file] = wanted_of([b"12345"])
    download, times = Download([file], {}, 0.0, PATIENCE_S), [0.0]
    with pytest.raises(FetchError, match="less than 64 KiB came in 100 s"):
        _ask_over_and_over(download, answers, times)
    assert PATIENCE_S < times[-1] <= PATIENCE_S + 20


def _ask_over_and_over(download: Download, answers: list[str], times: list[float]) -> None:
    for answer in answers:
        if answer == "refused":
            action = download.on_refused(503, 0.0, times[-1], 1.0)
        else:
            download.on_head(0, 5)
            if answer == "again":
                download.on_bytes(3, times[-1])
            action = download.on_end("cut", times[-1], 1.0)
        assert isinstance(action, Pause)
        times.append(times[-1] + action.seconds)


def test_a_cloud_that_sends_a_byte_now_and_then_is_given_up():
    [file] = wanted_of([bytes(1 << 20)])
    download = Download([file], {}, 0.0, PATIENCE_S)
    download.on_head(0, 1 << 20)
    for number in range(1, 12):
        download.on_bytes(1, 9.0 * number)
    with pytest.raises(FetchError, match="file0 comes too slowly; less than 64 KiB"):
        download.on_bytes(1, 9.0 * 12)


def test_a_slow_link_is_enough():
    [file] = wanted_of([bytes(1 << 20)])
    download, now = Download([file], {}, 0.0, PATIENCE_S), 0.0
    download.on_head(0, 1 << 20)
    for _ in range(1 << 8):
        now += 6
        download.on_bytes(1 << 12, now)
    assert isinstance(download.next(), Check)


def test_pauses_grow_until_something_comes():
    [file] = wanted_of([b"12345"])
    download = Download([file], {}, 0.0, PATIENCE_S)
    pauses = []
    for _ in range(8):
        action = download.on_end("cut", 0.0, 1.0)
        assert isinstance(action, Pause)
        pauses.append(action.seconds)
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]
    download.on_head(0, 5)
    download.on_bytes(1, 0.0)
    action = download.on_end("cut", 0.0, 1.0)
    assert isinstance(action, Pause)
    assert action.seconds == 0.25

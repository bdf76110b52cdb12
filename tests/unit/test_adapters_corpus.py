from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.data import corpus
from adapters.data.corpus import (
    STORY_END,
    Corpus,
    CorpusError,
    Share,
    Windows,
    collect_windows,
    encoded_stories,
    stories,
)
from submodels.bundle.bundle import load_bundle
from tests.support.adapter_models import make_bundles, write_stories

BOS = 1


def test_stories_are_what_lies_between_separators(tmp_path: Path) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text(f"One.\n{STORY_END}\n\n{STORY_END}\nTwo.\n{STORY_END}\n")
    second.write_text("Three.")
    assert list(stories([first, second])) == ["One.", "Two.", "Three."]


@pytest.mark.parametrize("piece_chars", [1, 2, 7, 20, 1000])
def test_a_separator_over_the_border_of_two_pieces_still_separates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_chars: int
) -> None:
    path = tmp_path / "text.txt"
    path.write_text(f"abc{STORY_END}defghi{STORY_END}j")
    monkeypatch.setattr(corpus, "_PIECE_CHARS", piece_chars)
    assert list(stories([path])) == ["abc", "defghi", "j"]


def test_a_story_longer_than_can_be_held_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "text.txt"
    path.write_text("x" * 70)
    monkeypatch.setattr(corpus, "_MAX_STORY_CHARS", 32)
    monkeypatch.setattr(corpus, "_PIECE_CHARS", 8)
    pieces = list(stories([path]))
    assert "".join(pieces) == "x" * 70
    assert max(map(len, pieces)) <= 40


def test_a_missing_text_and_one_that_is_not_utf8_are_told_by_name(tmp_path: Path) -> None:
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing.txt", binary):
        with pytest.raises(CorpusError, match=path.name):
            list(stories([path]))


@given(
    body=st.lists(st.integers(2, 9), max_size=60),
    max_tokens=st.integers(2, 20),
    has_bos=st.booleans(),
)
def test_windows_hold_the_story_in_order_each_from_a_first_token(
    body: list[int], max_tokens: int, has_bos: bool
) -> None:
    story = [BOS, *body] if has_bos else body
    cut = list(Windows(max_tokens, min_tokens=1).cut(story, BOS))
    assert all(1 <= len(window) <= max_tokens for window in cut)
    if has_bos:
        assert all(window[0] == BOS for window in cut)
    assert [token for window in cut for token in window if token != BOS] == body


def test_windows_that_are_too_short_are_dropped() -> None:
    cut = list(Windows(max_tokens=4, min_tokens=3).cut([2, 3, 4, 5, 6, 7], BOS))
    assert [window.tolist() for window in cut] == [[2, 3, 4, 5]]


def test_collected_windows_stay_within_the_budget_of_tokens(tmp_path: Path) -> None:
    bundle = load_bundle(make_bundles(tmp_path)[0], "device")
    text = write_stories(tmp_path / "text.txt", 20)
    everything = collect_windows(Corpus(bundle, [text]), Windows(24, 4), 1 << 30)
    some = collect_windows(Corpus(bundle, [text]), Windows(24, 4), 100)
    assert sum(map(len, some)) <= 100
    assert [w.tolist() for w in some] == [w.tolist() for w in everything[: len(some)]]


def test_text_without_one_whole_window_is_refused(tmp_path: Path) -> None:
    bundle = load_bundle(make_bundles(tmp_path)[0], "device")
    text = tmp_path / "short.txt"
    text.write_text("hi")
    with pytest.raises(CorpusError, match="no text of 16 tokens"):
        collect_windows(Corpus(bundle, [text]), Windows(), 1 << 30)


def test_every_story_is_either_trained_on_or_held_out(tmp_path: Path) -> None:
    bundle = load_bundle(make_bundles(tmp_path)[0], "device")
    text = write_stories(tmp_path / "text.txt", 41)
    everything, trained, held_out = (
        list(encoded_stories(Corpus(bundle, [text], share))) for share in Share
    )
    assert (len(everything), len(trained), len(held_out)) == (41, 39, 2)
    assert held_out == [everything[19], everything[39]]
    assert trained == [story for i, story in enumerate(everything) if i not in (19, 39)]

"""Stop strings: the same text is shown, and held back, however it arrives."""

from hypothesis import given
from hypothesis import strategies as st

from device_runtime.text.stop_strings import StopMatcher, StopStrings

# Few letters, so that stop strings overlap themselves and each other.
words = st.text("abc", min_size=1, max_size=5)
stop_lists = st.lists(words, max_size=40)
piece_lists = st.lists(st.text("abc", max_size=5), max_size=10)


def shown(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    matcher, text = StopMatcher(StopStrings(stops)), ""
    for piece in pieces:
        matched = matcher.push(piece)
        text += matched.text
        if matched.is_stopped:
            return text, True
    return text + matcher.flush(), False


def expected(stops: list[str], text: str) -> tuple[str, bool]:
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - len(max(found, key=len))], True
    return text, False


@given(stops=stop_lists, pieces=piece_lists)
def test_the_text_before_the_first_stop_is_shown_however_it_is_cut(stops, pieces):
    assert shown(stops, pieces) == expected(stops, "".join(pieces))


@given(stops=stop_lists, pieces=piece_lists)
def test_only_a_proper_prefix_of_a_stop_is_held_back(stops, pieces):
    matcher, received, text = StopMatcher(StopStrings(stops)), "", ""
    for piece in pieces:
        matched = matcher.push(piece)
        received, text = received + piece, text + matched.text
        if matched.is_stopped:
            return
        held = received[len(text) :]
        assert received == text + held
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)
        longer = received[-len(held) - 1 :]
        assert len(longer) == len(held) or not any(stop.startswith(longer) for stop in stops)


def test_text_passed_by_never_matches_and_forgets_what_was_begun():
    matcher = StopMatcher(StopStrings(["ab"]))
    assert matcher.pass_by("ab") == "ab"
    assert matcher.push("a").text == ""
    assert matcher.pass_by("b") == "ab"
    assert matcher.push("b").text == "b"


def test_work_per_character_does_not_grow_with_the_number_of_stop_strings():
    """Counted: steps from one state to a shorter one are never more than characters were taken."""
    stops = StopStrings([f"{'a' * length}b{length}" for length in range(1, 200)])
    num_steps = 0

    class Counted(list):
        def __getitem__(self, state):
            nonlocal num_steps
            num_steps += 1
            return super().__getitem__(state)

    stops._shorter = Counted(stops._shorter)
    text = ("a" * 250 + "c") * 20
    assert not StopMatcher(stops).push(text).is_stopped
    assert num_steps <= len(text)

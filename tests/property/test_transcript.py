"""Answers do not depend on how tokens were grouped into rounds, and log probabilities fit them."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from device_runtime.api.answer.transcript import Piece, Transcript, join_pieces
from device_runtime.api.job.plan import Choice
from device_runtime.generation.request import Emission, GenerationRequest, SamplingParams, Token
from device_runtime.text.detokenizer import make_detokenizer
from device_runtime.text.stop_strings import StopStrings
from tests.support.tokenizers import story_tokenizer

EOS = 2
BYTES = (3, 259)
PROMPT = (1, 403)
# Letters, words, bytes of characters; no special tokens, which have no text.
ids = st.lists(st.one_of(st.integers(*BYTES), st.integers(259, 511)), min_size=1, max_size=16)
stops = st.lists(st.text("aeht ,.", min_size=1, max_size=3), max_size=3)


def choice(stops=(), num_logprobs=0, min_tokens=0, echo="", wants_rounds=False):
    generation = GenerationRequest(
        prompt_ids=PROMPT,
        max_tokens=100,
        sampling=SamplingParams(),
        stop_token_ids=frozenset({EOS}),
        min_tokens=min_tokens,
        num_logprobs=num_logprobs,
    )
    return Choice(0, generation, StopStrings(stops), echo, wants_rounds=wants_rounds)


def pieces_of(choice: Choice, token_ids, cuts, reason) -> list[Piece]:
    transcript, pieces = Transcript(choice, story_tokenizer()), []
    borders = [0, *sorted({cut for cut in cuts if 0 < cut < len(token_ids)}), len(token_ids)]
    for begin, end in pairwise(borders):
        tokens = tuple(Token(token_id, -1.0) for token_id in token_ids[begin:end])
        last = end == len(token_ids)
        # All of a round but its last token were drafted.
        num_accepted = len(tokens) - 1
        emission = Emission(tokens, reason if last else None, num_accepted, num_accepted)
        piece = transcript.push(emission)
        if piece is not None:
            pieces.append(piece)
            if piece.finish_reason is not None:
                return pieces
    return pieces


cuts_lists = st.lists(st.integers(0, 16), max_size=6)


@given(token_ids=ids, stops=stops, first=cuts_lists, second=cuts_lists)
def test_an_answer_is_the_same_however_its_tokens_are_grouped(token_ids, stops, first, second):
    asked = choice(stops)
    one, other = (
        join_pieces(pieces_of(asked, token_ids, cuts, "length")) for cuts in (first, second)
    )
    assert one == other


@given(token_ids=ids, cuts=cuts_lists)
def test_without_stops_the_answer_is_the_decoding_and_every_token_is_counted(token_ids, cuts):
    tokenizer = story_tokenizer()
    # A word at the end, so that no character is cut off.
    token_ids = [*token_ids, 410]
    whole = join_pieces(pieces_of(choice(), token_ids, cuts, "length"))
    expected = tokenizer.decode([*PROMPT, *token_ids])
    assert tokenizer.decode(PROMPT) + whole.text == expected
    assert whole.num_tokens == len(token_ids)
    assert [scored.token.id for scored in whole.tokens] == token_ids
    assert whole.finish_reason == "length"


@given(token_ids=ids, cuts=cuts_lists, stops=stops, num_logprobs=st.sampled_from([None, 0]))
def test_texts_of_rounds_are_the_text_and_every_round_is_told(token_ids, cuts, stops, num_logprobs):
    asked = choice(stops, num_logprobs, echo="Once", wants_rounds=True)
    pieces = pieces_of(asked, token_ids, cuts, "length")
    plain = pieces_of(choice(stops, num_logprobs, echo="Once"), token_ids, cuts, "length")
    assert [replace(piece, rounds=UNSET) for piece in pieces] == plain
    for piece in pieces:
        assert "".join(token.text for token in piece.rounds.tokens) == piece.text
        assert all(token.text for token in piece.rounds.tokens)
    assert pieces[0].rounds.tokens[0].origin == "prompt"
    if not stops:
        borders = {cut for cut in cuts if 0 < cut < len(token_ids)}
        assert sum(piece.rounds.rounds for piece in pieces) == len(borders)
        num_accepted = sum(piece.rounds.accepted_tokens for piece in pieces)
        assert num_accepted == len(token_ids) - len(borders) - 1


@given(token_ids=ids, cuts=cuts_lists, stops=stops)
def test_tokens_of_log_probabilities_begin_in_the_text_they_are_sent_with(token_ids, cuts, stops):
    pieces = pieces_of(choice(stops), token_ids, cuts, "length")
    begin = 0
    for piece in pieces:
        end = begin + len(piece.text)
        offsets = [scored.offset for scored in piece.tokens]
        assert offsets == sorted(offsets)
        if piece.finish_reason is None:
            assert all(offset < end for offset in offsets)
        begin = end


@given(token_ids=ids, cuts=cuts_lists)
def test_the_text_of_a_token_stands_where_its_log_probability_says(token_ids, cuts):
    whole = join_pieces(pieces_of(choice(), token_ids, cuts, "length"))
    for scored in whole.tokens:
        # Bytes wait for the rest of their character, and have no text of their own.
        if scored.token.id >= BYTES[1]:
            own = story_tokenizer().token_bytes(scored.token.id).decode()
            assert whole.text[scored.offset :].startswith(own)


@given(token_ids=ids, cuts=cuts_lists)
def test_a_stop_token_counts_but_has_neither_text_nor_log_probability(token_ids, cuts):
    with_stop = join_pieces(pieces_of(choice(), [*token_ids, EOS], cuts, "stop"))
    without = join_pieces(pieces_of(choice(), token_ids, cuts, "length"))
    assert with_stop.text == without.text
    assert with_stop.tokens == without.tokens
    assert with_stop.num_tokens == without.num_tokens + 1
    assert with_stop.finish_reason == "stop"


@given(token_ids=ids, stops=stops, cuts=cuts_lists, min_tokens=st.integers(0, 16))
def test_stop_strings_are_looked_for_in_the_text_behind_the_least_number_of_tokens(
    token_ids, stops, cuts, min_tokens
):
    whole = join_pieces(pieces_of(choice(stops, 0, min_tokens), token_ids, cuts, "length"))
    detokenizer = make_detokenizer(story_tokenizer(), PROMPT)
    texts = [detokenizer.push(token_id) for token_id in token_ids]
    before, behind = "".join(texts[:min_tokens]), texts[min_tokens:]
    for num_behind in range(1, len(behind) + 1):
        text = "".join(behind[:num_behind])
        found = [(text.find(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
        if found:
            end, minus_length = min(found)
            assert whole.text == before + text[: end + minus_length]
            assert whole.num_tokens == min_tokens + num_behind
            assert whole.finish_reason == "stop"
            return
    # What is left of a character in the end may complete a stop string as well.
    if not (rest := detokenizer.flush()):
        assert whole.text == before + "".join(behind) + rest
        assert whole.finish_reason == "length"


@pytest.mark.parametrize("num_early", [-1, 0, 1])
def test_the_first_token_whose_text_may_end_the_answer_is_the_one_after_the_least(num_early):
    token_ids = encoded("a dog and a cat")
    num_dog = next(n for n in range(len(token_ids)) if "g" in decoded(token_ids[:n]))
    whole = join_pieces(
        pieces_of(choice(["g"], min_tokens=num_dog + num_early), token_ids, [], "length")
    )
    assert whole.text == (" a do" if num_early < 0 else " a dog and a cat")
    assert whole.finish_reason == ("stop" if num_early < 0 else "length")


def decoded(token_ids):
    return story_tokenizer().decode(token_ids)


def encoded(text):
    return story_tokenizer().encode(text, add_special_tokens=False)


def test_a_stop_string_ends_the_answer_where_it_begins_and_drops_the_tokens_of_it():
    token_ids = encoded("One day the dog ran")
    pieces = pieces_of(choice([" dog"]), token_ids, [1, 2, 3], "length")
    whole = join_pieces(pieces)
    assert whole.text == " One day the"
    assert whole.finish_reason == "stop"
    assert whole.num_tokens < len(token_ids)
    text = b"".join(story_tokenizer().token_bytes(each.token.id) for each in whole.tokens)
    assert text.decode() == whole.text


def test_stop_strings_are_not_looked_for_before_the_least_number_of_tokens():
    token_ids = encoded("a dog and a dog")
    num_before = len(encoded("a dog"))
    whole = join_pieces(pieces_of(choice([" dog"], min_tokens=num_before), token_ids, [], "length"))
    assert whole.text == " a dog and a"


def test_an_echo_waits_for_the_first_token_and_moves_the_offsets():
    transcript = Transcript(choice(echo="Once"), story_tokenizer())
    # The first of the three bytes of one character.
    assert transcript.push(Emission((Token(3 + 0xE4),))) is None
    rest = transcript.push(Emission((Token(3 + 0xBD), Token(3 + 0xA0)), "length"))
    assert rest is not None
    assert rest.text == "Once你"
    assert [scored.offset for scored in rest.tokens] == [4, 4, 4]
    assert rest.is_first

"""Rounds along known texts, figures of them, and drafts made side by side."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.data.chains import Continuation, draft_everywhere
from adapters.data.draft_head import draft_head
from adapters.data.whole_model import WholeModel
from adapters.networks import load_network, network_tensors
from adapters.storage import load_adapter, write_card, write_weights
from adapters.writing.answers import Ending, answers, continue_prompt
from bench.drafters.drafts.lookup import lookup_drafts
from bench.drafters.drafts.stored import StoredDrafter
from bench.drafters.rounds import (
    Known,
    Reached,
    Round,
    figures,
    one_round,
    reached_everywhere,
    summed,
    walk,
)
from bench.drafters.texts.cases import Case
from bench.drafters.texts.choosing import RULES, SAMPLED, choice_of
from bench.drafters.texts.kept import Text, Writing, own_texts, stop_token_ids
from device_runtime.drafting.ngram import PromptLookup
from tests.support.adapter_models import make_whole_model
from tests.support.stored_adapters import store_random_adapter
from tests.support.written_texts import text_of

NO_STOP: frozenset[int] = frozenset()


def test_a_round_keeps_what_is_right_and_adds_the_models_own_token() -> None:
    known = Known([5, 6, 7, 8, 9], 5, NO_STOP)
    assert one_round(known, 0, (6, 7, 3), 6) == Round(3, 2, 3)
    assert one_round(known, 0, (6, 7, 3), 1) == Round(1, 1, 2)
    assert one_round(known, 0, (), 6) == Round(0, 0, 1)
    # The last token there may be is never drafted.
    assert one_round(known, 2, (8, 9), 6) == Round(1, 1, 2)


def test_a_draft_and_a_text_end_with_a_stop_token() -> None:
    known = Known([5, 6, 2], 9, frozenset({2}))
    assert one_round(known, 0, (6, 2, 4), 6) == Round(2, 2, 2)
    assert one_round(known, 1, (2, 2), 6) == Round(1, 1, 1)
    assert walk(known, [(6, 2, 4), ()], 6) == [Round(2, 2, 2)]


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=12),
    st.data(),
    st.integers(0, 4),
    st.integers(0, 3),
)
def test_rounds_add_up_to_the_text(
    answer: list[int], data: st.DataObject, most: int, room: int
) -> None:
    stop = frozenset({2})
    answer = [token for token in answer[:-1] if token != 2] + answer[-1:]
    drafts = [tuple(data.draw(st.lists(st.integers(0, 2), max_size=5))) for _ in answer[1:]]
    max_tokens = len(answer) + (room if answer[-1] == 2 else 0)
    rounds = walk(Known(answer, max_tokens, stop), drafts, most)
    assert sum(one.num_tokens for one in rounds) == len(answer) - 1
    assert all(0 <= one.num_accepted <= one.num_drafted <= most for one in rounds)
    assert all(one.num_tokens - one.num_accepted in (0, 1) for one in rounds)


def test_figures_are_those_of_all_rounds_and_the_error_is_over_prompts() -> None:
    found = figures([[Round(4, 1, 2), Round(4, 3, 4)], [Round(2, 0, 1)], []])
    assert found is not None
    assert (found.num_prompts, found.num_rounds) == (2, 3)
    assert found.tokens_per_round == pytest.approx(7 / 3)
    assert found.drafted_per_round == pytest.approx(10 / 3)
    assert found.accepted_share == pytest.approx(0.4)
    # The prompts are off by 6 - 14/3 and 1 - 7/3 tokens; n / (n - 1) is 2.
    assert found.standard_error == pytest.approx((2 * 2 * (4 / 3) ** 2) ** 0.5 / 3)
    assert figures([[Round(0, 0, 1)]]) is not None
    assert figures([[]]) is None


def test_positions_are_counted_from_every_place_of_the_text() -> None:
    known = Known([1, 2, 3, 4], 9, NO_STOP)
    reached = reached_everywhere(known, [(2, 3, 0), (0, 4), (4,)], 3)
    assert reached == Reached((3, 1, 1), (2, 1, 0))
    both = summed([reached, Reached((1, 0, 0), (0, 0, 0))])
    assert both.shares == [0.5, 1.0, 0.0]
    assert Reached((0,), (0,)).shares == [None]


def test_lookup_drafts_know_the_prompt_and_what_was_decided() -> None:
    prompt, answer = [1, 2, 3, 4, 1, 2], [3, 4, 5, 1, 2]
    drafts = lookup_drafts(text_of(prompt, answer, np.empty((5, 1)), "greedy"), PromptLookup, 2)
    expected = []
    for end in range(1, 5):
        lookup = PromptLookup()
        lookup.extend([*prompt, *answer[:end]])
        expected.append(lookup.propose(2))
    assert drafts == expected
    assert drafts[0] == (4, 1)


def test_answers_are_kept_with_the_deep_rows_that_come_down(tmp_path: Path) -> None:
    model = make_whole_model(tmp_path, num_input=2)
    cases = [Case(n, "chat", ids) for n, ids in enumerate([(3, 4, 5), (7,) * 20, (9, 8, 3, 4)])]
    texts = own_texts(model, cases, Writing(RULES, max_tokens=9, seed=3), tmp_path / "texts")
    assert [(text.case, text.rule) for text in texts] == [
        (c, rule) for c in cases for rule in RULES
    ]
    for text in texts:
        ending = Ending(9, stop_token_ids(model))
        prompt = list(text.case.token_ids)
        [answer] = answers(model, [prompt], [choice_of(text.rule, 3 + text.case.number)], ending)
        assert text.answer == answer
        rows = model.sequence().extend([*prompt, *answer], 0).deep[len(prompt) - 1 : -1]
        np.testing.assert_allclose(text.deep, rows.numpy(), rtol=0, atol=2e-5)


def test_output_layers_on_the_device_are_refused(tmp_path: Path) -> None:
    model = make_whole_model(tmp_path, num_output=1)
    with pytest.raises(ValueError, match="without output layers on the device, got 1"):
        own_texts(model, [Case(1, "chat", (3, 4))], Writing(RULES), tmp_path / "texts")


def test_drafts_begin_behind_the_answers_first_token(tmp_path: Path) -> None:
    model = make_whole_model(tmp_path, num_input=2)
    vocabulary = np.arange(3, 200, 2)
    store_fed_adapter(tmp_path, model, vocabulary)
    text = continue_prompt(model, [3, 4, 5, 6], choice_of(SAMPLED, 5), Ending(16, NO_STOP))
    stored = load_adapter(tmp_path, model.manifest)
    head = draft_head(model, vocabulary)
    choice = choice_of(SAMPLED, 5)
    expected = draft_everywhere(model, load_network(stored), text, 3, choice, head)
    came = StoredDrafter(model, tmp_path).drafts(own_text(text), choice_of(SAMPLED, 5), 3)
    np.testing.assert_array_equal(came.token_ids, expected.token_ids)
    np.testing.assert_allclose(came.confidences, expected.confidences, atol=1e-6)
    drafted = came.until_unsure(float(np.median(came.confidences)))
    assert len({len(draft) for draft in drafted}) > 1


def store_fed_adapter(folder: Path, model: WholeModel, vocabulary: np.ndarray) -> None:
    card = store_random_adapter(folder, model.manifest, "fed")
    network = load_network(load_adapter(folder, model.manifest))
    weights = write_weights(folder, network_tensors(network), vocabulary)
    fields = {"weights": weights, "draft_vocabulary_size": len(vocabulary)}
    write_card(folder, msgspec.structs.replace(card, **fields))


def own_text(text: Continuation) -> Text:
    first = text.num_prompt_tokens
    rows = text.deep[first - 1 : -1].numpy()
    return text_of(text.token_ids[:first], text.token_ids[first:], rows, SAMPLED)

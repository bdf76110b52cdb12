"""`hat verify`: what counts as a difference, the prompts, and the report."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hat.errors import CommandError
from hat.verify.compare import (
    Continuation,
    Reference,
    distances,
    first_difference,
    logprob_errors,
)
from hat.verify.prompts import BUILT_IN, Prompt, encode_prompts, read_prompts
from hat.verify.report import GreedyCase, greedy_check, passed, render, sampled_check

RIGHT = Reference(ids=(5, 6, 7), logprobs=(-0.5, -0.25, -1.0), margins=(2.0, 0.5, 5e-5))
TARGET = {(0, 0): 0.4, (0, 1): 0.3, (1, 0): 0.2, (1, 1): 0.1}


def spelled(ids):
    return "".join(f"<{token}>" for token in ids)


def checks_of(*continuations: Continuation, is_exact: bool = True, num_too_long: int = 0):
    prompts = [Prompt(number, (0,) * 10) for number in range(1, len(continuations) + 1)]
    pairs = zip(prompts, continuations, strict=True)
    cases = [GreedyCase(prompt, RIGHT, came) for prompt, came in pairs]
    return greedy_check(cases, num_too_long, spelled, is_exact)


def test_the_first_differing_token_is_found_with_the_reference_margin():
    difference = first_difference(RIGHT, (5, 9, 8))
    assert (difference.index, difference.expected, difference.came) == (1, 6, 9)
    assert (difference.margin, difference.is_tie) == (0.5, False)
    assert first_difference(RIGHT, RIGHT.ids) is None


def test_a_difference_between_two_equal_logits_is_a_tie():
    assert first_difference(RIGHT, (5, 6, 9)).is_tie


@pytest.mark.parametrize("ids", [(5, 6), (5, 6, 7, 8), ()])
def test_a_text_that_ends_elsewhere_is_different_and_no_tie(ids):
    difference = first_difference(RIGHT, ids)
    assert difference.index == min(len(ids), 3)
    assert None in (difference.expected, difference.came)
    assert not difference.is_tie


def test_log_probabilities_are_compared_up_to_the_first_other_token():
    came = Continuation((5, 6, 9), (-0.5, -0.3, 100.0))
    assert logprob_errors(RIGHT, came) == pytest.approx([0, 0.05])
    assert logprob_errors(RIGHT, RIGHT) == [0, 0, 0]
    assert np.isnan(logprob_errors(RIGHT, Continuation((5,), (float("nan"),)))).all()


def test_a_log_probability_that_is_no_number_fails():
    checks = checks_of(Continuation(RIGHT.ids, (-0.5, float("nan"), -1.0)))
    assert [check.verdict for check in checks] == ["ok", "FAILED"]
    assert "token 2 (position 11): unsplit -0.2500, split nan" in render(checks)


@pytest.mark.parametrize(
    ("probabilities", "is_alike"),
    [
        (TARGET, True),
        ({(0, 0): 0.1, (0, 1): 0.2, (1, 0): 0.3, (1, 1): 0.4}, False),
        ({(0, 0): 0.4, (0, 1): 0.3, (1, 0): 0.2, (2, 2): 0.1}, False),
    ],
)
def test_draws_pass_exactly_when_they_follow_the_target(probabilities, is_alike):
    generator = np.random.default_rng(0)
    counts = generator.multinomial(1000, list(probabilities.values()))
    draws = Counter(dict(zip(probabilities, counts.tolist(), strict=True)))
    assert distances(TARGET, draws, generator).are_alike is is_alike


def test_the_built_in_prompts_are_used_unless_others_are_named(tmp_path: Path):
    lines = tmp_path / "prompts.txt"
    lines.write_text("One\n\n  Two\n")
    objects = tmp_path / "prompts.jsonl"
    objects.write_text('{"prompt": "One"}\n{"turns": ["Two", "Three"], "question_id": 4}\n')
    assert read_prompts(None) == BUILT_IN
    assert read_prompts(lines) == ("One", "  Two")
    assert read_prompts(objects) == ("One", "Two")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "\n\n", "holds no prompt"),
        ("a.jsonl", '{"prompt": "x"}\nOnce', "line 2: expected a JSON object"),
        ("a.jsonl", '{"text": "x"}', 'line 1: expected an object with a text as "prompt"'),
        ("a.jsonl", '{"turns": [7]}', "line 1: expected an object"),
        (".", "", "cannot read --prompts"),
    ],
)
def test_a_file_without_usable_prompts_is_refused(tmp_path: Path, name, text, expected):
    path = tmp_path / name
    if name != ".":
        path.write_text(text)
    with pytest.raises(CommandError, match=expected):
        read_prompts(path)


def test_prompts_that_do_not_fit_are_left_out_and_the_others_keep_their_numbers():
    prompts = encode_prompts(("a", "bbbbb", "", "cc"), lambda text: list(text.encode()), 3)
    assert prompts == [Prompt(1, (97,)), Prompt(4, (99, 99))]


def test_the_report_names_every_differing_position_with_its_margin():
    checks = checks_of(RIGHT, Continuation((5, 9), (-0.5, -0.1)), Continuation((5, 6, 9), ()))
    text = render(checks)
    assert not passed(checks)
    assert "3 prompts, 9 tokens: 1 prompt with other ids; 1 tie" in text
    assert "prompt 2, token 2 (position 11): unsplit 6 '<6>', split 9 '<9>'; margin 0.5" in text
    assert "prompt 3, token 3 (position 12): unsplit 7 '<7>', split 9 '<9>'; a tie" in text


def test_equal_ids_with_other_log_probabilities_fail_at_their_position():
    checks = checks_of(Continuation(RIGHT.ids, (-0.5, -0.25, -1.5)))
    assert [check.verdict for check in checks] == ["ok", "FAILED"]
    assert "prompt 1, token 3 (position 12): unsplit -1.0000, split -1.5000" in render(checks)


def test_outside_float32_differences_are_shown_and_nothing_fails():
    found = distances(TARGET, Counter({(2, 2): 50}), np.random.default_rng(0))
    checks = checks_of(Continuation((1, 2), (-9.0, -9.0)), is_exact=False, num_too_long=2)
    checks.append(sampled_check(found, 4, is_exact=False))
    assert passed(checks)
    assert {check.verdict for check in checks} == {"shown"}
    assert "margin 2" in render(checks)
    assert "2 prompts left out, too long" in render(checks)


def test_of_many_differences_the_first_ten_are_listed():
    text = render(checks_of(*[Continuation((0,), (-1.0,))] * 12))
    assert text.count("margin 2") == 10
    assert "and 2 more" in text

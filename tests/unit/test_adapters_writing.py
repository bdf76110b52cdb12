"""Conversations that the target writes itself: the same as one by one, and as uninterrupted."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adapters.data.conversations import (
    CONVERSATIONS_FILE,
    Conversation,
    conversation_figures,
    read_conversations,
)
from adapters.data.corpus import CorpusError
from adapters.data.whole_model import WholeModel, load_whole_model
from adapters.options import StageProgress
from adapters.writing.decoder import BatchDecoder
from adapters.writing.draft import Chance, Phase, Writing
from adapters.writing.form import ChatForm, WritingOptions
from adapters.writing.group import choose, choose_by_chance, write_group
from adapters.writing.run import Sources, write_conversations
from submodels.bundle.layer_weights import Placed
from tests.support.adapter_models import make_bundles
from tests.support.split_models import VARIANTS

FORM = ChatForm(
    opening=(1, 30, 31),
    closing=(40, 41),
    between=(100, 50),
    end_token_ids=frozenset((2, *range(100, 130))),
    special_token_ids=frozenset({9}),
)
OPTIONS = WritingOptions(
    num_conversations=20,
    min_turn_tokens=2,
    max_turn_tokens=40,
    max_answer_tokens=9,
    temperatures=(0.0, 1.0),
    long_every=2,
    long_tokens=150,
    num_slots=3,
)


class StopError(Exception):
    """Stands for kill -9."""


def ignore(progress: StageProgress) -> None:
    """No bar."""


def standing() -> float:
    """A clock by which float32 is as fast as anything."""
    return 0.0


def any_is_new(token_ids: Sequence[int]) -> bool:
    return True


def sources(folder: Path) -> Sources:
    device, cloud = make_bundles(folder)
    return Sources(device, cloud, FORM)


def write(chosen: Sources, folder: Path, options: WritingOptions = OPTIONS) -> bytes:
    write_conversations(chosen, options, folder, ignore, standing)
    return (folder / CONVERSATIONS_FILE).read_bytes()


def one_by_one(model: WholeModel, prompt: Sequence[int], num_tokens: int) -> list[int]:
    """The whole model's greedy answer, up to and with an end token."""
    token_ids, sequence = list(prompt), model.sequence()
    states, answer = sequence.extend(token_ids, 0), []
    for _ in range(num_tokens):
        answer.append(int(model.head(states.top[-1:])[0].argmax()))
        if answer[-1] in FORM.end_token_ids:
            break
        states = sequence.extend(answer[-1:], len(token_ids) + len(answer) - 1)
    return answer


@pytest.mark.parametrize(
    "name",
    ["llama with biases", "mistral sliding", "qwen3, mixed layers, yarn with scaling, sharded"],
)
def test_answers_side_by_side_are_those_of_the_whole_model_one_by_one(
    tmp_path: Path, name: str
) -> None:
    device, cloud = make_bundles(tmp_path, num_output=1, model=VARIANTS[name])
    model = load_whole_model(device, cloud, Placed())
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, 60, (n,), generator=generator).tolist() for n in (70, 3, 20, 1, 9)]
    options = replace(OPTIONS, temperatures=(0.0,), max_answer_tokens=24)
    writings = [Writing(i, FORM, options, any_is_new, p) for i, p in enumerate(prompts)]
    decoder = BatchDecoder(model, 2, 100)
    over: list[int] = []
    write_group(
        decoder, FORM.opening, writings, choose_by_chance, lambda one: over.append(one.index)
    )
    assert sorted(over) == [0, 1, 2, 3, 4]
    for writing, prompt in zip(writings, prompts, strict=True):
        assert writing.token_ids[len(prompt) :] == one_by_one(model, prompt, 24)


@pytest.mark.parametrize("stop_after", [1, 7, 13, 18])
def test_what_is_written_does_not_depend_on_interruptions(tmp_path: Path, stop_after: int) -> None:
    chosen = sources(tmp_path)
    whole = write(chosen, tmp_path / "whole")
    num_lines = whole.count(b"\n")
    assert num_lines >= OPTIONS.num_conversations
    cut = tmp_path / "cut"

    def killed(progress: StageProgress) -> None:
        if progress.done == stop_after:
            raise StopError

    with pytest.raises(StopError):
        write_conversations(chosen, OPTIONS, cut, killed, standing)
    # The last thing that was under way is a line, and half of another.
    with (cut / CONVERSATIONS_FILE).open("ab") as file:
        file.write(whole.splitlines(keepends=True)[-1] + b'{"token_ids":[1,2')
    assert write(chosen, cut) == whole
    (cut / CONVERSATIONS_FILE).write_bytes(whole[:100])
    with pytest.raises(CorpusError, match="got 100; delete both to begin anew"):
        write(chosen, cut)


def test_more_conversations_go_on_from_those_that_are_there(tmp_path: Path) -> None:
    chosen = sources(tmp_path)
    first = write(chosen, tmp_path / "work", replace(OPTIONS, num_conversations=8))
    more = write(chosen, tmp_path / "work")
    assert more.startswith(first)
    assert more == write(chosen, tmp_path / "other")
    assert write(chosen, tmp_path / "work") == more


def test_few_conversations_are_not_a_whole_group(tmp_path: Path) -> None:
    for number in (1, 4):
        options = replace(OPTIONS, num_conversations=number, num_slots=64)
        written = write(sources(tmp_path), tmp_path / str(number), options)
        assert number <= written.count(b"\n") <= number + number // 4 + 4


def test_a_file_from_elsewhere_is_kept_and_gone_on_with(tmp_path: Path) -> None:
    chosen, work = sources(tmp_path), tmp_path / "work"
    work.mkdir()
    theirs = b'{"token_ids": [1, 30, 31, 5, 6, 40, 41, 7, 2], "num_prompt_tokens": 7}\n'
    (work / CONVERSATIONS_FILE).write_bytes(theirs + b'{"token_ids": [1, 30')
    written = write(chosen, work)
    assert written.startswith(theirs)
    assert written.count(b"\n") >= OPTIONS.num_conversations
    assert b'{"token_ids": [1, 30\n' not in written


def test_other_options_are_not_mixed_with_what_is_there(tmp_path: Path) -> None:
    chosen = sources(tmp_path)
    write(chosen, tmp_path / "work")
    with pytest.raises(CorpusError, match="other prompts or other options"):
        write(chosen, tmp_path / "work", replace(OPTIONS, seed=1))
    with pytest.raises(CorpusError, match="other prompts or other options"):
        write(replace(chosen, prompts=[[1, 5]]), tmp_path / "work")


def test_a_model_whose_questions_do_not_end_is_given_up(tmp_path: Path) -> None:
    endless = replace(FORM, end_token_ids=frozenset({2}), closing=(2,))
    with pytest.raises(CorpusError, match=r"of \d+ conversations .* give --prompts or --text"):
        write(replace(sources(tmp_path), form=endless), tmp_path / "work")


def test_given_prompts_are_answered_once_each_and_no_more(tmp_path: Path) -> None:
    prompts = [[1, 5, number % 30 + 3] for number in range(40)] + [[4] * 95, []]
    chosen = replace(sources(tmp_path), prompts=prompts)
    options = replace(OPTIONS, num_conversations=1000)
    written = write_conversations(chosen, options, tmp_path / "work", ignore, standing)
    asked = [one.token_ids[: one.num_prompt_tokens] for one in written.conversations]
    assert all(prompt in prompts[:30] for prompt in asked)
    assert len({*map(tuple, asked)}) == len(asked)
    # All that is missing is answers that ended at once.
    assert len(asked) + written.num_unfit == 30


def test_about_half_of_the_answers_are_greedy_and_seeds_differ(tmp_path: Path) -> None:
    chosen = sources(tmp_path)
    write(chosen, tmp_path / "one")
    written = read_conversations(tmp_path / "one" / CONVERSATIONS_FILE, 1000)
    shares = [one.temperature for one in written]
    assert {*shares} == {0.0, 1.0}
    assert write(chosen, tmp_path / "two", replace(OPTIONS, seed=1)) != write(
        chosen, tmp_path / "one"
    )


def written_by(tokens: Sequence[int], form: ChatForm = FORM) -> Writing:
    """A conversation that is given the same tokens whatever it asks for."""
    seen: set[tuple[int, ...]] = {(5, 6, 7)}

    def is_new(token_ids: Sequence[int]) -> bool:
        return tuple(token_ids) not in seen

    writing = Writing(0, form, OPTIONS, is_new)
    for token in tokens:
        writing.take(token)
        if writing.is_over:
            break
    return writing


@pytest.mark.parametrize(
    ("tokens", "phase"),
    [
        ([5, 2], Phase.UNFIT),
        ([5, 9], Phase.UNFIT),
        ([5] * 41, Phase.UNFIT),
        ([5, 6, 7, 40], Phase.DUPLICATE),
        ([5, 6, 40, 2], Phase.UNFIT),
        ([5, 6, 40, 8], Phase.ANSWER),
        ([5, 6, 40, 8, 2], Phase.DONE),
        ([5, 6, 2, *[8] * 9], Phase.DONE),
    ],
)
def test_what_does_not_serve_is_dropped(tokens: list[int], phase: Phase) -> None:
    assert written_by(tokens).phase is phase


def test_a_conversation_has_the_template_around_the_users_words() -> None:
    done = written_by([5, 6, 40, 8, 7, 2]).conversation()
    assert done.token_ids == [1, 30, 31, 5, 6, 40, 41, 8, 7, 2]
    assert done.answer == [8, 7, 2]


def test_every_so_manieth_conversation_goes_on_with_further_questions() -> None:
    form = replace(FORM, end_token_ids=frozenset({2}), between=(2, 50, 51))
    first, second = [5, 6, 40, 8, 7, 2], [5, 7, 40, 9, 2]
    template = [1, 30, 31, 5, 6, 40, 41, 8, 7, 2, 50, 51, 5, 7, 40, 41, 9, 2]
    writing = written_by([*first, *second, 5, 2], form)
    done = writing.conversation()
    # The last question was too short: what was answered before it stays.
    assert (writing.phase, done.token_ids) == (Phase.DONE, template)
    assert done.ranges == ((7, 10), (16, 18))
    assert done.answer == [8, 7, 2, 9, 2]
    assert written_by(first, form).phase is Phase.TURN
    assert written_by(first, replace(form, between=())).phase is Phase.DONE
    cut_short = [5, 6, 40, *[8] * 9]
    assert written_by(cut_short, form).phase is Phase.DONE


def test_a_base_model_goes_on_from_its_own_beginning() -> None:
    base = replace(FORM, opening=(1,), closing=())
    options = replace(OPTIONS, max_turn_tokens=6)
    for index in range(20):
        writing = Writing(index, base, options, any_is_new)
        while not writing.is_over:
            writing.take(5)
        done = writing.conversation()
        assert 3 <= done.num_prompt_tokens <= 7
        assert len(done.answer) == 9


def test_choices_follow_the_models_distribution() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2, 0.0]]).log().expand(1000, -1)
    uniforms = [(number + 0.5) / 1000 for number in range(1000)]
    tokens = choose(logits, [Chance(1.0, uniform) for uniform in uniforms])
    assert [tokens.count(token) for token in range(4)] == [500, 300, 200, 0]
    assert choose(logits[:2], [None, Chance(1.0, 0.999999)]) == [0, 2]
    # At half the temperature the shares are those of the squares: 25, 9 and 4 of 38.
    cold = choose(logits, [Chance(0.5, uniform) for uniform in uniforms])
    assert [cold.count(token) for token in range(4)] == [658, 237, 105, 0]


def test_lines_that_are_no_conversations_are_named(tmp_path: Path) -> None:
    path = tmp_path / CONVERSATIONS_FILE
    good = b'{"token_ids": [1, 2], "num_prompt_tokens": 1}\n'
    for line, words in (
        (b'{"token_ids": [1, 70], "num_prompt_tokens": 1}\n', "ids below 64; it is of another"),
        (b'{"token_ids": [1, 2], "num_prompt_tokens": 2}\n', "expected a prompt and an answer"),
        (b"hello\n", "malformed"),
    ):
        path.write_bytes(good + line)
        with pytest.raises(CorpusError, match="line 2") as refused:
            read_conversations(path, 64)
        assert words in str(refused.value)
    path.write_bytes(good + b"hel")
    assert len(read_conversations(path, 64)) == 1


def test_figures_tell_length_and_repetition() -> None:
    def one(*answer: int) -> Conversation:
        return Conversation(token_ids=[1, 2, *answer], num_prompt_tokens=2)

    figures = conversation_figures([one(5, 6, 5, 6, 5), one(7, 8, 9)])
    assert (figures.num_conversations, figures.num_tokens) == (2, 12)
    assert (figures.mean_prompt_tokens, figures.mean_answer_tokens) == (2, 4)
    assert figures.distinct_2 == pytest.approx(4 / 6)
    assert figures.distinct_3 == pytest.approx(3 / 4)

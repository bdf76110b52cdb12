"""Prompts, arrivals and lengths as they are shipped."""

import json
from base64 import b64decode
from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import mean

import pytest
from tokenizers import Tokenizer

from bench.workloads.arrivals import TRACES, arrivals, trace_window
from bench.workloads.data_files import DATA, GPT2_TOKENIZER, WorkloadError, prompt_rows, trace_rows
from bench.workloads.lengths import Lengths, fit_spec_bench, lengths
from bench.workloads.prompts import load_prompts

MODELS = Path(__file__).resolve().parents[2] / "models"
TOKENIZERS = (MODELS / "stories260k", MODELS / "storybook-7m", GPT2_TOKENIZER)


def test_every_data_file_is_named_with_its_licence_in_the_readme() -> None:
    readme = (DATA / "README.md").read_text()
    data = [path for path in DATA.iterdir() if path.suffix in {".jsonl", ".csv", ".txt"}]
    assert len(data) == 5
    assert all(f"`{path.name}`" in readme for path in data)
    named = ("LICENSE-spec-bench-Apache-2.0", "LICENSE-azure-CC-BY-4.0", "gpt2/LICENSE")
    assert all(f"`{name}`" in readme and (DATA / name).is_file() for name in named)


def test_spec_bench_is_whole_and_its_lengths_are_those_of_the_tokenizer() -> None:
    prompts = load_prompts("spec-bench", 480, seed=3)
    assert len({prompt.number for prompt in prompts}) == 480
    assert Counter(prompt.category for prompt in prompts)["rag"] == 80
    tokenizer = Tokenizer.from_file(str(GPT2_TOKENIZER / "tokenizer.json"))
    some = prompt_rows("spec_bench")[::40]
    assert [len(tokenizer.encode(row.text).ids) for row in some] == [
        row.gpt2_tokens for row in some
    ]


def test_the_seed_chooses_the_order_of_prompts_and_nothing_else_does() -> None:
    first = load_prompts("tinystories", 20, seed=1)
    assert first == load_prompts("tinystories", 20, seed=1)
    assert first == load_prompts("tinystories", 200, seed=1)[:20]
    assert first != load_prompts("tinystories", 20, seed=2)


@pytest.mark.parametrize("num", [6, 12, 480])
def test_of_each_category_of_spec_bench_there_are_as_many(num: int) -> None:
    counts = Counter(prompt.category for prompt in load_prompts("spec-bench", num, seed=5))
    assert counts == Counter(
        dict.fromkeys(
            ("mt_bench", "translation", "summarization", "qa", "math_reasoning", "rag"), num // 6
        )
    )


def test_groups_of_spec_bench_are_asked_by_their_names() -> None:
    prompts = load_prompts("spec-bench:chat,code,mathematics", 9, seed=5)
    counts = Counter(prompt.category for prompt in prompts)
    assert counts == Counter(dict.fromkeys(("chat", "code", "mathematics"), 3))
    everything = {prompt.number: prompt for prompt in load_prompts("spec-bench", 480, seed=5)}
    assert all(prompt.text == everything[prompt.number].text for prompt in prompts)
    assert all(
        everything[prompt.number].category in {"mt_bench", "math_reasoning"} for prompt in prompts
    )


def test_a_small_set_begins_again_in_another_order() -> None:
    prompts = load_prompts("tinystories", 450, seed=0)
    assert set(prompts[:200]) == set(prompts[200:400])
    assert prompts[:200] != prompts[200:400]


def test_prompts_that_are_too_long_are_left_out() -> None:
    prompts = load_prompts("spec-bench", 480, 0, MODELS / "storybook-7m", max_tokens=200)
    tokenizer = Tokenizer.from_file(str(MODELS / "storybook-7m" / "tokenizer.json"))
    counts = [len(tokenizer.encode(prompt.text).ids) for prompt in prompts]
    assert max(counts) <= 200
    assert len(set(prompts)) > 200


@pytest.mark.parametrize("folder", TOKENIZERS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("num_tokens", [2, 33, 480])
def test_book_prompts_have_exactly_the_tokens_asked_for(folder: Path, num_tokens: int) -> None:
    prompts = load_prompts(f"books:{num_tokens}", 6, 0, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert [len(tokenizer.encode(prompt.text).ids) for prompt in prompts] == [num_tokens] * 6
    assert len({prompt.number for prompt in prompts}) == 6
    assert prompts == load_prompts(f"books:{num_tokens}", 6, 0, folder / "tokenizer.json")


def test_adversarial_texts_are_of_three_kinds_and_the_same_by_number() -> None:
    prompts = load_prompts("adversarial", 30, seed=1)
    kinds = dict.fromkeys(("random words", "another language", "base64"), 10)
    assert Counter(prompt.category for prompt in prompts) == Counter(kinds)
    assert prompts == load_prompts("adversarial", 40, seed=1)[:30]
    assert prompts != load_prompts("adversarial", 30, seed=2)
    by_kind = {prompt.category: prompt.text for prompt in prompts}
    assert len(b64decode(by_kind["base64"], validate=True)) == 60
    words = by_kind["random words"].split()
    assert len(words) == 40
    assert words != sorted(words)
    assert "Translate" not in by_kind["another language"]
    assert len({prompt.text for prompt in prompts}) == 30


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("tinystories:chat", {}, "expected one of spec-bench"),
        ("spec-bench:chat,poems", {}, "expected groups among chat, code, .*, got 'poems'"),
        ("novels", {}, "expected one of spec-bench, tinystories, adversarial, books:N, got novels"),
        ("books:many", {}, "expected one of"),
        ("books:10", {}, "expected a tokenizer"),
        ("books:0", {"tokenizer": GPT2_TOKENIZER}, "1 token or more"),
        ("books:200000", {"tokenizer": GPT2_TOKENIZER}, "at most 0 prompts of 200000 tokens"),
        ("spec-bench", {"max_tokens": 10}, "expected a tokenizer"),
        ("spec-bench", {"tokenizer": GPT2_TOKENIZER, "max_tokens": 1}, "no prompt of 1 tokens"),
        ("spec-bench", {"tokenizer": DATA}, "found none at"),
        ("adversarial", {"tokenizer": GPT2_TOKENIZER, "max_tokens": 1}, "no prompt of 1 tokens"),
    ],
)
def test_what_cannot_be_had_is_refused(
    name: str, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(WorkloadError, match=message):
        load_prompts(name, 4, 0, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "num_requests", "hour_s"), [("azure-conv", 19_366, 3502), ("azure-code", 8819, 3436)]
)
def test_the_traces_are_whole_hours_of_requests(
    kind: str, num_requests: int, hour_s: float
) -> None:
    rows = trace_rows(TRACES[kind])
    assert len(rows) == num_requests
    assert rows[0].arrival_s == 0
    assert rows[-1].arrival_s == pytest.approx(hour_s, abs=1)


def test_closed_arrivals_are_all_at_the_start() -> None:
    assert arrivals("closed", 3, None, seed=0) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", ["poisson", "azure-code"])
@pytest.mark.parametrize("rate_per_s", [None, 0.0, -1.0])
def test_arrivals_over_time_need_a_rate(kind: str, rate_per_s: float | None) -> None:
    with pytest.raises(WorkloadError, match="requests per second above 0"):
        arrivals(kind, 3, rate_per_s, seed=0)


def test_unknown_arrivals_and_lengths_are_refused() -> None:
    with pytest.raises(WorkloadError, match="expected one of closed, poisson, azure-conv"):
        arrivals("uniform", 3, 1.0, seed=0)
    with pytest.raises(WorkloadError, match="expected one of spec-bench, cnn-dm, azure-conv"):
        lengths("sharegpt", 3, seed=0)


def test_poisson_gaps_have_the_mean_and_the_deviation_of_an_exponential() -> None:
    times = arrivals("poisson", 20_000, 4.0, seed=5)
    gaps = [after - before for before, after in pairwise([0.0, *times])]
    assert mean(gaps) == pytest.approx(0.25, rel=0.03)
    assert mean(gap * gap for gap in gaps) == pytest.approx(2 * 0.25**2, rel=0.06)


@pytest.mark.parametrize("kind", TRACES)
def test_recorded_arrivals_keep_their_pattern_at_any_rate(kind: str) -> None:
    window = trace_window(kind, 500, seed=2)
    times = arrivals(kind, 500, 7.5, seed=2)
    assert times[-1] == pytest.approx(499 / 7.5)
    recorded_s = [row.arrival_s - window[0].arrival_s for row in window]
    scale = times[-1] / recorded_s[-1]
    assert times == pytest.approx([at * scale for at in recorded_s])


def test_more_requests_than_recorded_go_on_with_the_beginning() -> None:
    rows = trace_rows("azure_code")
    window = trace_window("azure-code", len(rows) + 2, seed=9)
    assert window[: len(rows)] == list(rows)
    again = window[len(rows) :]
    assert [row.prompt_tokens for row in again] == [row.prompt_tokens for row in rows[:2]]
    times = [row.arrival_s for row in window]
    assert times == sorted(times)


def test_recorded_lengths_are_those_of_the_same_requests_as_arrivals() -> None:
    window = trace_window("azure-conv", 50, seed=4)
    assert lengths("azure-conv", 50, seed=4) == [
        Lengths(row.prompt_tokens, row.output_tokens) for row in window
    ]


@pytest.mark.parametrize(
    ("name", "mean_tokens", "p90_tokens"), [("spec-bench", 351.2, 891), ("cnn-dm", 1036.6, 1772)]
)
def test_drawn_lengths_have_the_mean_and_p90_of_the_paper(
    name: str, mean_tokens: float, p90_tokens: float
) -> None:
    drawn = lengths(name, 40_000, seed=1)
    prompts = sorted(request.prompt_tokens for request in drawn)
    assert mean(prompts) == pytest.approx(mean_tokens, rel=0.015)
    assert prompts[36_000] == pytest.approx(p90_tokens, rel=0.02)
    assert {request.output_tokens for request in drawn} == {128}
    assert drawn[:9] == lengths(name, 9, seed=1)
    assert lengths(name, 9, seed=2) != lengths(name, 9, seed=1)


def test_the_fit_of_spec_bench_is_the_one_its_docstring_states() -> None:
    _, scale, offset = fit_spec_bench()
    assert (round(scale, 2), round(offset)) == (1.21, 31)


def test_prompts_are_one_json_object_per_line() -> None:
    lines = (DATA / "spec_bench.jsonl").read_text().splitlines()
    assert {tuple(json.loads(line)) for line in lines} == {
        ("id", "category", "gpt2_tokens", "text")
    }

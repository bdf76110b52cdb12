"""Every drafter along the same texts: tokens per round by group of prompts, and what goes in."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from adapters.data.whole_model import load_whole_model
from adapters.storage import AdapterCard
from bench.drafters.drafts.default import DefaultReplay, MadeUpTimes
from bench.drafters.drafts.lookup import LOOKUPS, lookup_drafts
from bench.drafters.drafts.steps import KnownSteps, known_steps
from bench.drafters.drafts.stored import StoredDrafter
from bench.drafters.rounds import (
    Draft,
    Known,
    Reached,
    Round,
    figures,
    reached_everywhere,
    summed,
    walk,
)
from bench.drafters.texts.cases import load_cases
from bench.drafters.texts.choosing import GREEDY
from bench.drafters.texts.kept import Text, Writing, own_texts, stop_token_ids
from bench.drafters.texts.scoring import Manner, Scores
from bench.live.plan import model_record
from bench.records import ModelRecord, Receipt
from device_runtime.generation.request import SamplingParams
from submodels.bundle.layer_weights import Placed

NO_DRAFTER, DEFAULT = "none", "default"
MAIN_GROUPS = ("chat", "code", "mathematics")
"""Those that targets are set for; together they are one more column."""
TOGETHER, ALL = "these three", "all"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to replay, on which prompts. `adapters` are folders by the name they are told by."""

    bundles: Path
    groups: tuple[str, ...]
    per_group: int
    writing: Writing
    folder: Path
    """Keeps the model's answers."""
    adapters: Mapping[str, Path]
    lengths: tuple[int, ...] = (4, 6)
    """Tokens of a draft, for every drafter; an adapter also drafts until its stop threshold."""
    max_prompt_tokens: int = 1536
    times: MadeUpTimes = field(default_factory=MadeUpTimes)
    """By which the default decides."""


class GroupFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of some prompts, as in `bench.drafters.rounds.Figures`.

    `right_by_position`: of drafts from every place of the texts that were right before their
    (i + 1)-th token, the share that was right there.
    """

    num_prompts: int
    num_rounds: int
    tokens_per_round: float
    standard_error: float | None
    drafted_per_round: float
    accepted_share: float | None
    tokens_per_s: float | None = None
    """In made-up time, where there is one."""
    right_by_position: list[float | None]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One drafter at one way of ending its drafts, by one rule: figures by group of prompts."""

    rule: str
    drafter: str
    drafting: str
    groups: dict[str, GroupFigures]


class AdapterRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter that was tried."""

    name: str
    kind: str
    num_parameters: int
    steps: int | None
    """Of its training; None for an imported head, of which that is not known."""
    stop_threshold: float
    max_draft_tokens: int


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """All of it, as a file keeps it. `groups` is the order of columns."""

    receipt: Receipt
    model: ModelRecord
    max_tokens: int
    repetition_penalty: float = 1.0
    groups: list[str]
    adapters: list[AdapterRecord]
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to draft: its name, and the rounds of each text, with how far drafts get anywhere."""

    drafting: str
    walked: Sequence["_Text"]


@dataclass(frozen=True, slots=True)
class _Text:
    """What came of one text; `made_up_s` where rounds take a made-up time."""

    rounds: list[Round]
    reached: Reached
    made_up_s: float | None = None


def evaluate(plan: Plan, receipt: Receipt, progress: Callable[[str], None]) -> Evaluation:
    """Replay every drafter along the model's own answers.

    Raises:
        BundleError: no two bundles of one split.
        AdapterError: a folder holds no adapter for this model.
        WorkloadError: no such prompts.
        ValueError: the device has output layers.
        OSError: an answer cannot be read or written.
    """
    model = load_whole_model(plan.bundles, plan.bundles, Placed())
    drafters = {name: StoredDrafter(model, folder) for name, folder in plan.adapters.items()}
    cases = load_cases(
        plan.bundles, plan.groups, plan.per_group, plan.writing.seed, plan.max_prompt_tokens
    )
    texts = own_texts(model, cases, plan.writing, plan.folder, progress)
    replay = _Replay(plan, texts, stop_token_ids(model), progress)
    rows: list[Row] = []
    for name, ways in replay.all_ways(drafters):
        rows += [row for way in ways for row in _rows(name, way, texts)]
    records = [
        AdapterRecord(
            name=name,
            kind=drafter.card.kind,
            num_parameters=drafter.num_parameters,
            steps=None if drafter.card.training is None else drafter.card.training.steps,
            stop_threshold=drafter.card.stop_threshold,
            max_draft_tokens=drafter.card.max_draft_tokens,
        )
        for name, drafter in drafters.items()
    ]
    return Evaluation(
        receipt=receipt,
        model=model_record(plan.bundles, "float32"),
        max_tokens=plan.writing.max_tokens,
        repetition_penalty=plan.writing.repetition_penalty,
        groups=[*_columns(plan.groups)],
        adapters=records,
        rows=rows,
    )


class _Replay:
    """All drafters along the same texts."""

    def __init__(
        self,
        plan: Plan,
        texts: Sequence[Text],
        stop_token_ids: frozenset[int],
        progress: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._texts = texts
        self._known = [Known(text.answer, text.max_tokens, stop_token_ids) for text in texts]
        self._progress = progress

    def all_ways(self, drafters: Mapping[str, StoredDrafter]) -> Iterator[tuple[str, list[_Way]]]:
        """Each drafter's name, and the ways in which it drafts."""
        yield NO_DRAFTER, [self._way("", 0, [[()] * text.num_starts for text in self._texts])]
        lengths = self._plan.lengths
        for name, new in LOOKUPS.items():
            found = [lookup_drafts(text, new, max(lengths)) for text in self._texts]
            yield name, [self._way(str(length), length, found) for length in lengths]
        yield DEFAULT, [self._default([None] * len(self._texts), 0)]
        for name, drafter in drafters.items():
            most, threshold = drafter.card.max_draft_tokens, drafter.card.stop_threshold
            full, stopped, steps = self._drafts(name, drafter, max(*lengths, most))
            ways = [self._way(str(length), length, full) for length in lengths]
            yield name, [*ways, self._way(f"{most}, stop {threshold:g}", most, stopped)]
            yield f"{DEFAULT} with {name}", [self._default(steps, most, _pass_tokens(drafter.card))]

    def _drafts(
        self, name: str, drafter: StoredDrafter, num_tokens: int
    ) -> tuple[list[list[Draft]], list[list[Draft]], list[KnownSteps]]:
        """An adapter's drafts from all starts of all texts: whole, until it is unsure, by step."""
        full: list[list[Draft]] = []
        stopped: list[list[Draft]] = []
        steps: list[KnownSteps] = []
        num, penalty = len(self._texts), self._plan.writing.repetition_penalty
        for number, text in enumerate(self._texts, start=1):
            scores = Scores(Manner(text.rule, text.seed, penalty))
            drafts, known = known_steps(text, scores, num_tokens, drafter.drafts)
            full.append(drafts.until_unsure(0.0))
            stopped.append(drafts.until_unsure(drafter.card.stop_threshold))
            steps.append(known)
            if number % 10 == 0 or number == num:
                self._progress(f"{name}: {number} of {num} texts")
        return full, stopped, steps

    def _way(self, drafting: str, most: int, drafts: Sequence[Sequence[Draft]]) -> _Way:
        """Drafts of at most so many tokens in every round."""
        pairs = zip(self._known, drafts, strict=True)
        walked = [_Text(walk(*pair, most), reached_everywhere(*pair, most)) for pair in pairs]
        return _Way(drafting, walked)

    def _default(
        self, steps: Sequence[KnownSteps | None], most_steps: int, pass_tokens: int = 1
    ) -> _Way:
        """Suffix guesses and perhaps an adapter's steps, a device for each rule."""
        devices: dict[str, DefaultReplay] = {}
        walked = []
        for text, known, own in zip(self._texts, self._known, steps, strict=True):
            new = DefaultReplay(self._plan.times, most_steps, pass_tokens)
            device = devices.setdefault(text.rule, new)
            found = device.walk(text, known, self._sampling(text), own)
            walked.append(_Text(found.rounds, Reached((), ()), found.made_up_s))
        return _Way(f"policy, rounds of {1e3 * self._plan.times.round_s:g} ms", walked)

    def _sampling(self, text: Text) -> SamplingParams:
        """What the request said that a text is the answer to."""
        return SamplingParams(
            temperature=0.0 if text.rule == GREEDY else 1.0,
            repetition_penalty=self._plan.writing.repetition_penalty,
        )


def _pass_tokens(card: AdapterCard) -> int:
    """Tokens that a pass of an adapter gives."""
    return card.max_draft_tokens if card.kind == "block" else 1


def _rows(name: str, way: _Way, texts: Sequence[Text]) -> list[Row]:
    """One row for each rule."""
    walked: dict[str, list[tuple[str, _Text]]] = {}
    for text, found in zip(texts, way.walked, strict=True):
        walked.setdefault(text.rule, []).append((text.case.group, found))
    rows = []
    for rule, parts in walked.items():
        groups = {
            column: _group_figures([part for group, part in parts if group in members])
            for column, members in _columns(dict.fromkeys(group for group, _ in parts)).items()
        }
        figured = {column: each for column, each in groups.items() if each is not None}
        rows.append(Row(rule=rule, drafter=name, drafting=way.drafting, groups=figured))
    return rows


def _columns(groups: Sequence[str] | Mapping[str, None]) -> dict[str, tuple[str, ...]]:
    """Columns of a table with the groups in each: every group, the main ones together, all."""
    columns: dict[str, tuple[str, ...]] = {group: (group,) for group in groups}
    main = tuple(group for group in groups if group in MAIN_GROUPS)
    if len(main) == len(MAIN_GROUPS):
        rest = {group: each for group, each in columns.items() if group not in main}
        columns = {**{group: columns[group] for group in main}, TOGETHER: main, **rest}
    is_said = TOGETHER in columns and len(groups) == len(main)
    return columns if is_said or len(groups) == 1 else {**columns, ALL: tuple(groups)}


def _group_figures(parts: Sequence[_Text]) -> GroupFigures | None:
    found = figures([part.rounds for part in parts])
    if found is None:
        return None
    num_tokens = sum(one.num_tokens for part in parts for one in part.rounds)
    times_s = [part.made_up_s for part in parts if part.made_up_s is not None]
    return GroupFigures(
        num_prompts=found.num_prompts,
        num_rounds=found.num_rounds,
        tokens_per_round=found.tokens_per_round,
        standard_error=found.standard_error,
        drafted_per_round=found.drafted_per_round,
        accepted_share=found.accepted_share,
        tokens_per_s=num_tokens / sum(times_s) if times_s else None,
        right_by_position=summed([part.reached for part in parts]).shares,
    )

"""After the last step: the stop threshold, and how the adapter stands beside other drafters."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from adapters.data.chains import Continuation, Drafts, draft_everywhere, read_text
from adapters.data.choosing import greedy
from adapters.data.corpus import CorpusError
from adapters.data.draft_head import DraftHead
from adapters.data.rounds import Trial, exact_acceptance, walk_rounds
from adapters.data.sample import Sample
from adapters.data.whole_model import WholeModel
from adapters.draft_cost import DraftCost
from adapters.measuring.comparison import (
    Comparison,
    adapter_standing,
    lookup_standing,
    lookup_trial,
)
from adapters.measuring.drafters import load_drafter
from adapters.measuring.evaluate import greedy_text
from adapters.measuring.threshold import best_threshold, sweep_thresholds
from adapters.networks import AdapterNetwork
from adapters.options import Progress, StageProgress, TrainOptions
from adapters.storage import StoredAdapter

# After training by minutes: texts that are tried in any case, and the share of the minutes to try
# more of them.
_MIN_PROMPTS = 4
_MINUTES_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Calibration:
    """Greedy figures on held-out texts; `full_tokens_per_round` is with drafts that never stop."""

    stop_threshold: float
    full_tokens_per_round: float
    cost: DraftCost
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class Candidate:
    """The new adapter, and what drafting with it costs."""

    network: AdapterNetwork
    head: DraftHead
    cost: DraftCost


@dataclass(frozen=True, slots=True)
class Rival:
    """The adapter or imported head that is there, and what drafting with it costs."""

    stored: StoredAdapter
    cost: DraftCost


def calibrate(
    options: TrainOptions,
    model: WholeModel,
    now: Candidate,
    before: Rival | None,
    texts: Iterable[Sample],
) -> Calibration:
    """Try every drafter on the same texts: the new adapter, the one `before`, prompt lookup.

    The target wrote the answers of the texts, greedily.

    Raises:
        CorpusError: the target ends all its texts within one draft.
    """
    old = None if before is None else load_drafter(model, before.stored, options.device)
    tried = _Tried()
    for sample in texts:
        text = read_text(model, sample.token_ids.tolist(), sample.answers[0][0])
        most = options.calibration.max_draft_tokens
        drafts = draft_everywhere(model, now.network, text, most, greedy, now.head)
        tried.now.append(_trial(drafts, text))
        if old is not None and before is not None:
            most = before.stored.card.max_draft_tokens
            tried.before.append(_trial(old.drafts(text, most, greedy), text))
        first, most = text.num_prompt_tokens + 1, options.lookup_tokens
        tried.ngram.append(lookup_trial(text.token_ids, first, most, options.lookup))
    try:
        return _judged(tried, now.cost, before)
    except ValueError as error:
        raise CorpusError(f"the held-out text does not serve: {error}") from error


def held_out_texts(
    options: TrainOptions,
    model: WholeModel,
    prompts: Sequence[Sequence[int]],
    progress: Progress,
    clock: Callable[[], float],
) -> Iterator[Sample]:
    """What the target writes after the prompts, one by one.

    Of a training by minutes as many as half of those allow, but not less than a few: with a large
    vocabulary each takes long.
    """
    limit_s = math.inf if options.minutes is None else _MINUTES_SHARE * 60 * options.minutes
    began_s = clock()
    for index, prompt in enumerate(prompts):
        if index >= _MIN_PROMPTS and clock() - began_s > limit_s:
            break
        progress(StageProgress("calibration", index, len(prompts)))
        written = greedy_text(model, prompt, options.calibration).token_ids
        answer = (len(prompt), len(written))
        if answer[1] > answer[0] + 1:
            yield Sample(np.array(written, np.int32), (answer,))
    progress(StageProgress("calibration", len(prompts), len(prompts)))


def _trial(drafts: Drafts, text: Continuation) -> Trial:
    chosen = text.token_ids[text.num_prompt_tokens + 1 :]
    return Trial(exact_acceptance(drafts.token_ids, chosen), drafts.confidences)


@dataclass(frozen=True, slots=True)
class _Tried:
    """The trials of each drafter, one per text."""

    now: list[Trial] = field(default_factory=list)
    before: list[Trial] = field(default_factory=list)
    ngram: list[Trial] = field(default_factory=list)


def _judged(tried: _Tried, cost: DraftCost, before: Rival | None) -> Calibration:
    chosen = best_threshold(sweep_thresholds(tried.now, cost))
    old = None
    if before is not None:
        threshold = before.stored.card.stop_threshold
        old = adapter_standing(tried.before, threshold, before.cost)
    comparison = Comparison(
        num_prompts=len(tried.now),
        ngram=lookup_standing(tried.ngram, cost),
        now=adapter_standing(tried.now, chosen.threshold, cost),
        before=old,
    )
    full = walk_rounds(tried.now, 0.0).tokens_per_round
    return Calibration(chosen.threshold, full, cost, comparison)

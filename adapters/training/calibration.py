"""After the last step: the stop threshold, and how the adapter stands beside other drafters."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from adapters.data.chains import Continuation, draft_everywhere, read_text
from adapters.data.choosing import greedy
from adapters.data.corpus import CorpusError
from adapters.data.draft_head import DraftHead, draft_head
from adapters.data.rounds import Trial, exact_acceptance, walk_rounds
from adapters.data.sample import Sample
from adapters.data.whole_model import WholeModel
from adapters.measuring.comparison import (
    Comparison,
    adapter_standing,
    lookup_standing,
    lookup_trial,
)
from adapters.measuring.evaluate import greedy_text
from adapters.measuring.threshold import best_threshold, sweep_thresholds
from adapters.networks import AdapterNetwork, load_network
from adapters.options import Progress, StageProgress, TrainOptions
from adapters.storage import DraftCost, StoredAdapter

# After training by minutes: texts that are tried in any case, and the share of the minutes to try
# more of them.
_MIN_PROMPTS = 4
_MINUTES_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Calibration:
    """Greedy figures on held-out texts; `full_tokens_per_round` is with drafts that never stop."""

    stop_threshold: float
    full_tokens_per_round: float
    comparison: Comparison


Drafting = tuple[AdapterNetwork, DraftHead]
"""What drafts."""


def calibrate(
    options: TrainOptions,
    model: WholeModel,
    now: Drafting,
    before: StoredAdapter | None,
    texts: Iterable[Sample],
) -> Calibration:
    """Try every drafter on the same texts: the new adapter, the one `before`, prompt lookup.

    The target wrote the answers of the texts, greedily.

    Raises:
        CorpusError: the target ends all its texts within one draft.
    """
    old = None if before is None else _loaded(model, before, options.device)
    tried = _Tried()
    for sample in texts:
        text = read_text(model, sample.token_ids.tolist(), sample.answers[0][0])
        tried.now.append(trial_on(now, text, options.calibration.max_draft_tokens))
        if old is not None and before is not None:
            tried.before.append(trial_on(old, text, before.card.max_draft_tokens))
        first, most = text.num_prompt_tokens + 1, options.lookup_tokens
        tried.ngram.append(lookup_trial(text.token_ids, first, most, options.lookup))
    try:
        return _judged(tried, options.cost, before)
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


def _loaded(model: WholeModel, stored: StoredAdapter, device: str) -> Drafting:
    return load_network(stored, device), draft_head(model, stored.draft_vocabulary())


def trial_on(drafting: Drafting, text: Continuation, num_tokens: int) -> Trial:
    """Greedy drafts from every token of the answer but the last."""
    network, head = drafting
    drafts = draft_everywhere(head.model, network, text, num_tokens, greedy, head)
    chosen = text.token_ids[text.num_prompt_tokens + 1 :]
    return Trial(exact_acceptance(drafts.token_ids, chosen), drafts.confidences)


@dataclass(frozen=True, slots=True)
class _Tried:
    """The trials of each drafter, one per text."""

    now: list[Trial] = field(default_factory=list)
    before: list[Trial] = field(default_factory=list)
    ngram: list[Trial] = field(default_factory=list)


def _judged(tried: _Tried, cost: DraftCost, before: StoredAdapter | None) -> Calibration:
    chosen = best_threshold(sweep_thresholds(tried.now, cost))
    old = None
    if before is not None:
        old = adapter_standing(tried.before, before.card.stop_threshold, cost)
    comparison = Comparison(
        num_prompts=len(tried.now),
        ngram=lookup_standing(tried.ngram, cost),
        now=adapter_standing(tried.now, chosen.threshold, cost),
        before=old,
    )
    return Calibration(chosen.threshold, walk_rounds(tried.now, 0.0).tokens_per_round, comparison)

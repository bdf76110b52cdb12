"""After the last step: the stop threshold, and how the adapter stands beside other drafters."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from adapters.data.chains import Continuation
from adapters.data.corpus import CorpusError
from adapters.data.rounds import Trial, walk_rounds
from adapters.data.whole_model import WholeModel
from adapters.measuring.comparison import (
    Comparison,
    adapter_standing,
    lookup_standing,
    lookup_trial,
)
from adapters.measuring.evaluate import greedy_text, greedy_trial_on
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


def calibrate(
    options: TrainOptions,
    model: WholeModel,
    now: AdapterNetwork,
    before: StoredAdapter | None,
    texts: Iterable[Continuation],
) -> Calibration:
    """Try every drafter on the same texts: the new adapter, the one `before`, prompt lookup.

    Raises:
        CorpusError: the target ends all its texts within one draft.
    """
    old = None if before is None else load_network(before, options.device)
    tried = _Tried()
    for text in texts:
        most = options.calibration.max_draft_tokens
        tried.now.append(greedy_trial_on(model, now, text, most))
        if old is not None and before is not None:
            most = before.card.max_draft_tokens
            tried.before.append(greedy_trial_on(model, old, text, most))
        most, lookup = options.lookup_tokens, options.lookup
        tried.ngram.append(lookup_trial(text.token_ids, text.num_prompt_tokens, most, lookup))
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
) -> Iterator[Continuation]:
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
        yield greedy_text(model, prompt, options.calibration)
    progress(StageProgress("calibration", len(prompts), len(prompts)))


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

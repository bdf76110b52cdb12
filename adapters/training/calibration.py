"""After the last step: the stop threshold, and how the adapter stands beside other drafters."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from adapters.data.chains import Continuation, draft_everywhere, greedy
from adapters.data.corpus import CorpusError
from adapters.data.draft_head import DraftHead, draft_head
from adapters.data.features import FeatureBatch, cached_features, layout_of
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
from adapters.training.held_out import chain_drafts

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
    for text in texts:
        batch = _features(model, text)
        most = options.calibration.max_draft_tokens
        tried.now.append(trial_on(now, batch, text, most))
        if old is not None and before is not None:
            tried.before.append(trial_on(old, batch, text, before.card.max_draft_tokens))
        first = text.answers[0][0] + 1
        most, lookup = options.lookup_tokens, options.lookup
        tried.ngram.append(lookup_trial(text.token_ids.tolist(), first, most, lookup))
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


def _features(model: WholeModel, text: Sample) -> FeatureBatch:
    layout = layout_of(model.manifest, True, "float32")
    with TemporaryDirectory(prefix="hat-adapter-") as folder:
        features = cached_features(
            lambda: model, model.manifest, [text], Path(folder), layout, lambda done, of: None
        )
        return features.batch([0], model.embedding.device)


def _loaded(model: WholeModel, stored: StoredAdapter, device: str) -> Drafting:
    return load_network(stored, device), draft_head(model, stored.draft_vocabulary())


def trial_on(drafting: Drafting, batch: FeatureBatch, text: Sample, num_tokens: int) -> Trial:
    """Greedy drafts from every token of the answer but the last.

    All starts at once; how sure the drafter is behind a wrong token is taken from the text's own
    tokens then. With output layers one by one, since these read true rows of the text and
    estimates of the draft.
    """
    network, head = drafting
    first = text.answers[0][0]
    chosen = text.token_ids[first + 1 :].tolist()
    if head.model.output_layers:
        deep, token_ids = batch.deep[0], text.token_ids.tolist()
        written = Continuation(token_ids, first, deep, np.zeros(len(token_ids)))
        exact = draft_everywhere(head.model, network, written, num_tokens, greedy, head)
        # The first of these is for the answer's first token, which nobody drafts.
        return Trial(exact_acceptance(exact.token_ids[1:], chosen), exact.confidences[1:])
    drafts = chain_drafts(network, head, batch, num_tokens)
    starts = batch.scored[0]
    drafted = drafts.token_ids[0][starts].cpu().numpy()
    confidences = drafts.confidences[0][starts].double().cpu().numpy()
    return Trial(exact_acceptance(drafted, chosen), confidences)


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

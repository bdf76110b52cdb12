"""How far an adapter's drafts get on held-out text, greedy and sampled."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from adapters.data.chains import Continuation
from adapters.data.choosing import Choice, Coupled, Forced, greedy, philox
from adapters.data.corpus import Corpus, CorpusError, encoded_stories
from adapters.data.rounds import (
    Trial,
    acceptance_by_position,
    exact_acceptance,
    rejection_acceptance,
    walk_rounds,
)
from adapters.data.whole_model import WholeModel, load_whole_model
from adapters.measuring.drafters import Drafter, load_drafter
from adapters.measuring.report import Report, RuleReport
from adapters.measuring.threshold import sweep_thresholds
from adapters.options import EvaluateOptions, Progress, StageProgress, TrialOptions
from adapters.storage import load_adapter
from adapters.writing.answers import Ending, continue_prompt
from submodels.bundle.layer_weights import Placed
from submodels.manifest import Manifest


def evaluate(options: EvaluateOptions, progress: Progress) -> Report:
    """Tokens per round and acceptance by position of a stored adapter, as the device would draft.

    Raises:
        BundleError: the bundles cannot be used together.
        AdapterError: no adapter for them.
        CorpusError: too little text.
    """
    placed = Placed(device=options.device)
    model = load_whole_model(options.device_bundle, options.cloud_bundle, placed)
    stored = load_adapter(options.adapter or model.device_bundle.path, model.manifest)
    drafter = load_drafter(model, stored, options.device)
    prompts = held_out_prompts(Corpus(model.device_bundle, options.text), options.trials)
    by_rule: dict[str, list[Trial]] = {name: [] for name in _RULES}
    for index, prompt in enumerate(prompts):
        for name, run in _RULES.items():
            by_rule[name].append(run(model, drafter, prompt, options.trials, index))
        progress(StageProgress("evaluation", index + 1, len(prompts)))
    threshold, cost = stored.card.stop_threshold, options.cost_of(stored.path)
    return Report(
        model_name=model.manifest.model_name,
        kind=stored.card.kind,
        num_parameters=drafter.num_parameters,
        num_input_layers=model.manifest.num_input_layers,
        num_output_layers=model.manifest.num_output_layers,
        num_prompts=len(prompts),
        num_starts=sum(len(trial.acceptance) for trial in by_rule[_GREEDY]),
        max_draft_tokens=options.trials.max_draft_tokens,
        stop_threshold=threshold,
        cost=cost,
        rules=tuple(_rule_report(name, trials, threshold) for name, trials in by_rule.items()),
        sweep=sweep_thresholds(by_rule[_GREEDY], cost),
    )


def held_out_prompts(corpus: Corpus, trials: TrialOptions) -> list[Sequence[int]]:
    """The beginnings of the first stories that are longer than the prompt cut from them.

    Raises:
        CorpusError: not one story is, or prompt and continuation exceed the model's context.
    """
    needed = max(trials.prompt_tokens) + trials.continuation_tokens
    context_tokens = corpus.bundle.manifest.shape.max_context_tokens
    if needed > context_tokens:
        raise CorpusError(
            f"a prompt of {max(trials.prompt_tokens)} and {trials.continuation_tokens} more tokens "
            f"exceed the model's context of {context_tokens}"
        )
    prompts: list[Sequence[int]] = []
    for story in encoded_stories(corpus):
        length = trials.prompt_tokens[len(prompts) % len(trials.prompt_tokens)]
        if len(story) > length:
            prompts.append(story[:length])
        if len(prompts) == trials.num_prompts:
            break
    if not prompts:
        raise CorpusError(f"no story of more than {min(trials.prompt_tokens)} tokens to draft on")
    return prompts


def greedy_text(model: WholeModel, prompt: Sequence[int], trials: TrialOptions) -> Continuation:
    """What the target itself writes after one prompt, for drafters to be tried on."""
    return _continuation(model, prompt, trials, greedy)


def greedy_trial(
    model: WholeModel,
    drafter: Drafter,
    prompt: Sequence[int],
    trials: TrialOptions,
    index: int = 0,
) -> Trial:
    """Greedy drafts along the target's own greedy text after one prompt."""
    return _matching_trial(model, drafter, prompt, trials, greedy)


def _coupled_trial(
    model: WholeModel, drafter: Drafter, prompt: Sequence[int], trials: TrialOptions, index: int
) -> Trial:
    """Drafts and target sampled with the same noise."""
    return _matching_trial(model, drafter, prompt, trials, _noise(trials, index))


def _rejection_trial(
    model: WholeModel, drafter: Drafter, prompt: Sequence[int], trials: TrialOptions, index: int
) -> Trial:
    """The classic rule's chances along a text that the target sampled."""
    text = _continuation(model, prompt, trials, _noise(trials, index))
    forced = Forced([*text.token_ids, *_padding(trials)])
    drafts = drafter.drafts(text, trials.max_draft_tokens, forced)
    target = text.probabilities[text.num_prompt_tokens + 1 :]
    shares = rejection_acceptance(drafts.probabilities, target.tolist())
    return Trial(shares, drafts.confidences)


_GREEDY = "greedy"
_Run = Callable[[WholeModel, Drafter, Sequence[int], TrialOptions, int], Trial]
_RULES: Mapping[str, _Run] = MappingProxyType(
    {
        _GREEDY: greedy_trial,
        "sampled, one noise": _coupled_trial,
        "sampled, rejection": _rejection_trial,
    }
)


def _noise(trials: TrialOptions, index: int) -> Coupled:
    # Seeds far apart, so that no two prompts of neighbouring runs share their noise.
    return Coupled(philox(trials.seed * 1_000_003 + index))


def _padding(trials: TrialOptions) -> list[int]:
    """Tokens for drafts that reach beyond the text; they are never counted."""
    return [0] * trials.max_draft_tokens


def _matching_trial(
    model: WholeModel,
    drafter: Drafter,
    prompt: Sequence[int],
    trials: TrialOptions,
    choose: Choice,
) -> Trial:
    text = _continuation(model, prompt, trials, choose)
    drafts = drafter.drafts(text, trials.max_draft_tokens, choose)
    chosen = text.token_ids[text.num_prompt_tokens + 1 :]
    return Trial(exact_acceptance(drafts.token_ids, chosen), drafts.confidences)


def _continuation(
    model: WholeModel, prompt: Sequence[int], trials: TrialOptions, choose: Choice
) -> Continuation:
    ending = Ending(trials.continuation_tokens, _stop_token_ids(model.manifest))
    return continue_prompt(model, prompt, choose, ending)


def _stop_token_ids(manifest: Manifest) -> frozenset[int]:
    """Tokens that end a story: models trained on packed stories often say the first token."""
    first = () if manifest.bos_token_id is None else (manifest.bos_token_id,)
    return frozenset((*manifest.eos_token_ids, *first))


def _rule_report(name: str, trials: Sequence[Trial], threshold: float) -> RuleReport:
    return RuleReport(
        name=name,
        full=walk_rounds(trials, 0.0),
        stopped=walk_rounds(trials, threshold),
        acceptance=acceptance_by_position(trials),
        drafted_is_known=_RULES[name] is not _rejection_trial,
    )

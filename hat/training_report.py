"""What a training came to, in words: how it ended, every drafter's figures, and what was done."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapters.data.conversations import ConversationFigures
    from adapters.measuring.comparison import Comparison, Standing
    from adapters.storage import AdapterCard
    from adapters.training.train import TrainedAdapter
    from adapters.writing.run import Written

_ENDINGS: Mapping[str, str] = MappingProxyType(
    {
        "minutes": "the time was up",
        "passes": "the text was gone through often enough",
        "steps": "those were all",
        "flat": "held-out text was guessed no better any more",
    }
)


def written_report(figures: "ConversationFigures", written: "Written") -> str:
    """How much the model wrote, how long and how diverse it is, and what was dropped."""
    return (
        f"Conversations: {figures.num_conversations:,} with {figures.num_tokens:,} tokens, "
        f"prompts of {figures.mean_prompt_tokens:.0f} and answers of "
        f"{figures.mean_answer_tokens:.0f} on average; of the answers' pairs of tokens "
        f"{figures.distinct_2:.0%} are different ones, of the triples {figures.distinct_3:.0%}. "
        f"Dropped: {written.num_duplicates:,} questions that were there, {written.num_unfit:,} "
        "too short, too long or without an answer."
    )


def training_report(trained: "TrainedAdapter") -> str:
    """How the training went, and a table of all drafters on the held-out text."""
    return "\n".join([_ending(trained.card), "", *_table(trained)])


def installed_line(trained: "TrainedAdapter", device: Path) -> str:
    """Where the adapter is now, and a warning if something else would be faster."""
    faster = trained.comparison.faster
    line = f"Installed in {device}; `hat device` drafts with it."
    if faster is None:
        return line
    return f"{line} It was forced: {faster.replace('is there', 'was there')} measures better."


def kept_line(trained: "TrainedAdapter") -> str:
    """Why nothing was installed, and where the new adapter lies."""
    return (
        f"Not installed: {trained.comparison.faster} measures better, and the bundle is as it was. "
        f"The new adapter lies in {trained.path}; more minutes or more text may help, and the same "
        "command with --force installs it all the same."
    )


def _ending(card: "AdapterCard") -> str:
    figures = card.figures
    drafted = ""
    if card.draft_vocabulary_size is not None and figures.coverage is not None:
        drafted = (
            f" It drafts {card.draft_vocabulary_size:,} of the model's tokens, "
            f"{figures.coverage:.1%} of what held-out answers say."
        )
    return (
        f"Took {figures.steps} steps of training in {_duration(figures.training_s)} "
        f"({_ENDINGS[figures.ended]}): a {card.kind} adapter, loss {figures.loss:.3f}.{drafted}"
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} seconds" if seconds < 60 else f"{seconds / 60:.1f} minutes"


def _table(trained: "TrainedAdapter") -> list[str]:
    comparison, card = trained.comparison, trained.card
    from adapters.measuring.report import cost_words

    title = f"on held-out text ({comparison.num_prompts} prompts)"
    return [
        f"{title:<36} tokens per round   speed",
        *[_row(name, standing) for name, standing in _standings(comparison)],
        f"Speed: 1 is no drafting; {cost_words(card.figures.cost)}.",
        f"In these figures drafts have up to {card.max_draft_tokens} tokens, and end before one "
        f"that the new adapter gives less than {card.stop_threshold:g}; `hat device` ends each "
        "where it stops paying.",
        "",
    ]


def _standings(comparison: "Comparison") -> list[tuple[str, "Standing"]]:
    from adapters.measuring.comparison import NO_DRAFTING

    shown = [("no drafting", NO_DRAFTING), ("prompt lookup (ngram)", comparison.ngram)]
    if comparison.before is not None:
        shown.append(("before: the adapter that is there", comparison.before))
    return [*shown, ("now: the new adapter", comparison.now)]


def _row(name: str, standing: "Standing") -> str:
    return f"  {name:<34} {standing.tokens_per_round:>16.2f}   {standing.speed:>5.2f}"

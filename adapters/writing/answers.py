"""What the whole model answers, many prompts at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.data.chains import Continuation, read_text
from adapters.data.choosing import Choice
from adapters.data.whole_model import WholeModel
from adapters.writing.decoder import BatchDecoder
from adapters.writing.group import write_group


@dataclass(frozen=True, slots=True)
class Ending:
    """Where an answer ends: with one of these tokens, or when it is as long as it may be."""

    max_tokens: int
    stop_token_ids: frozenset[int]


def continue_prompt(
    model: WholeModel, prompt: Sequence[int], choose: Choice, ending: Ending
) -> Continuation:
    """What the whole model writes after a prompt, up to and without a stop token."""
    [answer] = answers(model, [prompt], [choose], ending)
    if answer[-1] in ending.stop_token_ids:
        answer = answer[:-1]
    return read_text(model, [*prompt, *answer], len(prompt))


def answers(
    model: WholeModel,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[Choice],
    ending: Ending,
) -> list[tuple[int, ...]]:
    """An answer to each prompt, each by its own choice, side by side; stop tokens included."""
    texts = [
        _Answer([*prompt], len(prompt) - 1, choice, ending)
        for prompt, choice in zip(prompts, choices, strict=True)
    ]
    longest = max(len(prompt) for prompt in prompts) + ending.max_tokens
    write_group(BatchDecoder(model, len(texts), longest), (), texts, _chosen)
    return [
        tuple(text.token_ids[len(prompt) :]) for prompt, text in zip(prompts, texts, strict=True)
    ]


@dataclass(slots=True)
class _Answer:
    """One answer as it grows, behind its prompt; see `adapters.writing.group.Growing`."""

    token_ids: list[int]
    num_fed: int
    choice: Choice
    ending: Ending
    num_written: int = 0
    has_prompt: bool = True

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be written."""
        has_stopped = self.token_ids[-1] in self.ending.stop_token_ids
        return self.num_written == self.ending.max_tokens or (self.num_written > 0 and has_stopped)

    def take(self, token: int) -> None:
        """Add the token that was chosen behind the last."""
        self.token_ids.append(token)
        self.num_written += 1


def _chosen(logits: Tensor, texts: Sequence[_Answer]) -> list[int]:
    places = zip(texts, logits, strict=True)
    return [
        int(one.choice(torch.tensor([len(one.token_ids)]), row[None])[0]) for one, row in places
    ]

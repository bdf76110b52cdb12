"""Answers by transformers alone: its template, its tokenizer, the model's own settings."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch

from hat.verify.compare import Reference
from hat.verify.conversations import OwnAnswer, Question

Shaped = Callable[[Sequence[Any]], Sequence[Any]]
"""Messages in the form in which the template reads them."""


class OwnAnswers:
    """A loaded model and tokenizer, and the generation settings that came with the model."""

    def __init__(self, model: Any, tokenizer: Any, stop_ids: frozenset[int]) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._stop_ids = stop_ids
        self._settings = deepcopy(model.generation_config)
        # Greedy is one beam; the rest (penalties, forbidden tokens) is the model's own.
        self._settings.update(do_sample=False, num_beams=1, num_return_sequences=1)

    def answer(self, question: Question, shaped: Shaped, max_tokens: int) -> OwnAnswer | None:
        """The greedy answer; None where the template refuses the question."""
        ids = self._prompt_ids(question, shaped)
        if ids is None:
            return None
        with torch.inference_mode():
            out = self._model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                generation_config=self._settings,
                max_new_tokens=max_tokens,
                eos_token_id=sorted(self._stop_ids) or None,
                pad_token_id=0,
                return_dict_in_generate=True,
                output_scores=True,
            )
        answer = out.sequences[0, len(ids) :].tolist()
        top = torch.stack(out.scores)[:, 0].float().topk(2, dim=-1).values
        margins = tuple((top[:, 0] - top[:, 1]).tolist())
        return OwnAnswer(
            question, tuple(ids), Reference(tuple(answer), (), margins), self._text(ids, answer)
        )

    def _prompt_ids(self, question: Question, shaped: Shaped) -> list[int] | None:
        if isinstance(question.asked, str):
            ids: list[int] = self._tokenizer(question.asked)["input_ids"]
            return ids
        # A template raises whatever it does.
        try:
            made = self._tokenizer.apply_chat_template(
                list(shaped(question.asked)), add_generation_prompt=True, return_dict=True
            )
        except Exception:
            return None
        return list(made["input_ids"])

    def _text(self, prompt: Sequence[int], answer: Sequence[int]) -> str:
        """What the answer adds to the text: some tokenizers read a beginning in another way."""
        before, after = (
            self._tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            for ids in (list(prompt), [*prompt, *answer])
        )
        return str(after).removeprefix(str(before))

"""One conversation while it is written: what is fed next, and what becomes of a choice. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from adapters.data.conversations import Conversation
from adapters.writing.form import ChatForm, WritingOptions

IsNew = Callable[[Sequence[int]], bool]
"""Whether a user's words were not there yet; asked once for each, it remembers them."""


class Phase(Enum):
    """Where a conversation is."""

    TURN = "turn"
    ANSWER = "answer"
    DONE = "done"
    DUPLICATE = "duplicate"
    UNFIT = "unfit"
    """A question too short, too long or with marks of control, or no answer."""


@dataclass(frozen=True, slots=True)
class Chance:
    """A temperature above 0, and a number in [0, 1)."""

    temperature: float
    uniform: float


class Writing:
    """A conversation that grows token by token.

    Its chance is a function of seed and index alone: a number in [0, 1) for each token.
    """

    def __init__(
        self,
        index: int,
        form: ChatForm,
        options: WritingOptions,
        is_new: IsNew,
        prompt: Sequence[int] | None = None,
    ) -> None:
        """Begin at the template's opening, or at the answer to a whole `prompt`."""
        self.index = index
        self.has_prompt = prompt is not None
        self.token_ids = list(form.opening if prompt is None else prompt)
        self.num_fed = len(self.token_ids) - 1
        self.phase = Phase.TURN if prompt is None else Phase.ANSWER
        self._temperature = options.temperatures[index % len(options.temperatures)]
        self._form = form
        self._options = options
        self._is_new = is_new
        self._generator = np.random.Generator(np.random.Philox([options.seed, index]))
        # A base model's questions have no end of their own.
        span = options.max_turn_tokens - options.min_turn_tokens + 1
        self._base_turn_tokens = options.min_turn_tokens + int(self._generator.random() * span)
        self._turn_start = self._answer_start = len(self.token_ids)
        self._answers: list[tuple[int, int]] = []
        self._uniform = float(self._generator.random())

    @property
    def expected_tokens(self) -> int:
        """How long it may become, for an order among those that begin."""
        further = self._options.long_tokens if self._may_go_on else 0
        return len(self.token_ids) + further

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be written."""
        return self.phase not in (Phase.TURN, Phase.ANSWER)

    @property
    def chance(self) -> "Chance | None":
        """How the next token is chosen; None is the likeliest."""
        if self.phase is Phase.TURN:
            return Chance(1.0, self._uniform)
        return Chance(self._temperature, self._uniform) if self._temperature else None

    def take(self, token: int) -> None:
        """Add the token that was chosen behind the last."""
        self._uniform = float(self._generator.random())
        if self.phase is Phase.TURN:
            self._take_question(token)
        else:
            self._take_answer(token)

    def conversation(self) -> Conversation:
        """What was written, of one that is done; a question that has no answer is left out."""
        return Conversation(
            token_ids=self.token_ids[: self._answers[-1][1]],
            num_prompt_tokens=self._answers[0][0],
            temperature=self._temperature,
            answers=self._answers if len(self._answers) > 1 else None,
        )

    def _take_question(self, token: int) -> None:
        num_tokens = len(self.token_ids) - self._turn_start
        is_base = not self._form.closing
        if token in self._form.turn_end_ids and not is_base:
            self._end_question(num_tokens)
            return
        self.token_ids.append(token)
        marks = self._form.special_token_ids | self._form.end_token_ids
        if token in marks or num_tokens >= self._options.max_turn_tokens:
            self._drop(Phase.UNFIT)
        elif is_base and num_tokens + 1 == self._base_turn_tokens:
            self._end_question(num_tokens + 1)

    def _end_question(self, num_tokens: int) -> None:
        if num_tokens < self._options.min_turn_tokens:
            self._drop(Phase.UNFIT)
        elif not self._is_new(self.token_ids[self._turn_start :]):
            self._drop(Phase.DUPLICATE)
        else:
            self.token_ids += self._form.closing
            self._answer_start = len(self.token_ids)
            self.phase = Phase.ANSWER

    def _take_answer(self, token: int) -> None:
        self.token_ids.append(token)
        num_tokens = len(self.token_ids) - self._answer_start
        has_ended = token in self._form.end_token_ids
        if has_ended and num_tokens == 1:
            self._drop(Phase.UNFIT)
        elif has_ended or num_tokens == self._options.max_answer_tokens:
            self._answers.append((self._answer_start, len(self.token_ids)))
            self.phase = Phase.DONE
            if self._goes_on(token):
                self.token_ids += self._form.between[1:]
                self._turn_start = len(self.token_ids)
                self.phase = Phase.TURN

    def _goes_on(self, last: int) -> bool:
        """Whether another question follows an answer that ended as the template ends one."""
        options, form = self._options, self._form
        further = len(form.between) + options.max_turn_tokens + len(form.closing)
        has_room = len(self.token_ids) + further + options.max_answer_tokens <= options.long_tokens
        return self._may_go_on and has_room and form.between[:1] == (last,)

    @property
    def _may_go_on(self) -> bool:
        turn, every = self.index // len(self._options.temperatures), self._options.long_every
        is_long = every > 0 and turn % every == 0
        return is_long and not self.has_prompt and bool(self._form.between)

    def _drop(self, phase: Phase) -> None:
        """End with what was answered until now, or with nothing."""
        self.phase = Phase.DONE if self._answers else phase

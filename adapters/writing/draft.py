"""One conversation while it is written: what is fed next, and what becomes of a choice. Pure."""

from collections.abc import Callable, Sequence
from enum import Enum

import numpy as np
from numpy.typing import NDArray

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


class Writing:
    """A conversation that grows token by token.

    Its chance is a function of seed and index alone: a number in [0, 1) for each token, and
    whether the answer is greedy.
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
        generator = np.random.Generator(np.random.Philox([options.seed, index]))
        self.index = index
        self.has_prompt = prompt is not None
        self.token_ids = list(form.opening if prompt is None else prompt)
        self.num_fed = len(self.token_ids) - 1
        self.phase = Phase.TURN if prompt is None else Phase.ANSWER
        self._temperature = 0.0 if generator.random() < options.greedy_share else 1.0
        self._form = form
        self._options = options
        self._is_new = is_new
        longest = options.max_turn_tokens + options.max_answer_tokens + 1
        self._uniforms: NDArray[np.float64] = generator.random(longest)
        self._num_drawn = 0
        # A base model's questions have no end of their own.
        span = options.max_turn_tokens - options.min_turn_tokens + 1
        self._base_turn_tokens = options.min_turn_tokens + int(generator.random() * span)
        self._turn_start = self._answer_start = len(self.token_ids)

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be written."""
        return self.phase not in (Phase.TURN, Phase.ANSWER)

    @property
    def wants_choice(self) -> bool:
        """Whether the token that is fed next is the last, so that one has to be chosen."""
        return self.num_fed == len(self.token_ids) - 1

    @property
    def uniform(self) -> float | None:
        """Chance for the next choice, in [0, 1); None is the likeliest token."""
        if self.phase is Phase.ANSWER and self._temperature == 0:
            return None
        return float(self._uniforms[self._num_drawn])

    def fed(self) -> None:
        """The model has read one more token."""
        self.num_fed += 1

    def take(self, token: int) -> None:
        """Add the token that was chosen behind the last."""
        self._num_drawn += 1
        if self.phase is Phase.TURN:
            self._take_question(token)
        else:
            self._take_answer(token)

    def conversation(self) -> Conversation:
        """What was written, of one that is done."""
        return Conversation(
            token_ids=self.token_ids,
            num_prompt_tokens=self._answer_start,
            temperature=self._temperature,
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
            self.phase = Phase.UNFIT
        elif is_base and num_tokens + 1 == self._base_turn_tokens:
            self._end_question(num_tokens + 1)

    def _end_question(self, num_tokens: int) -> None:
        if num_tokens < self._options.min_turn_tokens:
            self.phase = Phase.UNFIT
        elif not self._is_new(self.token_ids[self._turn_start :]):
            self.phase = Phase.DUPLICATE
        else:
            self.token_ids += self._form.closing
            self._answer_start = len(self.token_ids)
            self.phase = Phase.ANSWER

    def _take_answer(self, token: int) -> None:
        self.token_ids.append(token)
        num_tokens = len(self.token_ids) - self._answer_start
        if token in self._form.end_token_ids:
            self.phase = Phase.DONE if num_tokens > 1 else Phase.UNFIT
        elif num_tokens == self._options.max_answer_tokens:
            self.phase = Phase.DONE

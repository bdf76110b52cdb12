"""What a conversation with a model looks like in tokens, and what is to be written of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChatForm:
    """A model's template around one question. A base model has no closing: it writes on."""

    opening: tuple[int, ...]
    """Tokens up to where the user's words begin; at least one."""
    closing: tuple[int, ...]
    """From the end of the user's words to where the assistant's begin."""
    end_token_ids: frozenset[int]
    """Any of them ends an answer."""
    between: tuple[int, ...] = ()
    """From the end of an answer to the user's next words; none where there is but one question."""
    special_token_ids: frozenset[int] = frozenset()
    """Marks of control; a user's words have none."""

    def __post_init__(self) -> None:
        if not self.opening:
            raise ValueError("expected one token or more that a text begins with")

    @property
    def turn_end_ids(self) -> frozenset[int]:
        """Any of them ends the user's words."""
        return self.end_token_ids | frozenset(self.closing[:1])


@dataclass(frozen=True, slots=True)
class WritingOptions:
    """How many conversations, how long, and by which chance."""

    num_conversations: int = 2500
    seed: int = 0
    min_turn_tokens: int = 4
    """A shorter question is dropped."""
    max_turn_tokens: int = 128
    """A longer one too."""
    max_answer_tokens: int = 256
    """An answer is cut there."""
    temperatures: tuple[float, ...] = (0.0, 1.0, 0.0, 0.7)
    """Of answers, in turn; questions are sampled at temperature 1."""
    long_every: int = 6
    """One of so many conversations goes on with further questions, since an adapter drafts badly at
    positions beyond those that it learned from; 0: none."""
    long_tokens: int = 700
    """It goes on while there is room for a question and an answer below this."""
    num_slots: int = 64
    """Conversations that are written at once."""

    def __post_init__(self) -> None:
        counts = (self.num_conversations, self.min_turn_tokens, self.max_answer_tokens)
        if min(*counts, self.num_slots) < 1 or self.max_turn_tokens < self.min_turn_tokens:
            raise ValueError(f"expected counts of 1 or more, the longest turn last: {self}")
        if not self.temperatures or min(self.temperatures) < 0:
            raise ValueError(f"expected temperatures of 0 or more, got {self.temperatures}")

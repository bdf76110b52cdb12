"""A whole model in integers: its answer is a hash of the prefix, so every mistake shows.

A shallow row holds token and position; the middle turns the rows so far into a hash; a device with
output layers hashes once more over its own cache. All numbers are below 2**16, exact in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from device_runtime.engines.engine import DraftLimits, DraftRequest, Rows, SequenceId
from device_runtime.generation.request import GenerationRequest
from device_runtime.sampling.sampler import Noise, Sampler

HIDDEN_SIZE = 4
VOCAB_SIZE = 16
MAX_CONTEXT_TOKENS = 96


def middle_hash(state: int, token: int, position: int) -> int:
    """The middle's state after one more row."""
    return (state * 31 + token * 17 + position * 7 + 11) % 65_521


def output_hash(state: int, deep: int, position: int) -> int:
    """The output layers' state after one more deep row."""
    return (state * 29 + deep * 13 + position + 5) % 65_519


def logits_of(state: int) -> Rows:
    """Logits `[V]`, some of them equal."""
    ids = np.arange(VOCAB_SIZE)
    return ((state * (2 * ids + 3) + 97 * ids * ids) % 61 / 16).astype(np.float32)


def shallow_rows(token_ids: Sequence[int], position: int) -> Rows:
    """`[T, H]`: token, position and padding."""
    rows = np.zeros((len(token_ids), HIDDEN_SIZE), np.float32)
    rows[:, 0] = token_ids
    rows[:, 1] = np.arange(position, position + len(token_ids))
    return rows


@dataclass(frozen=True, eq=False)
class FakeCopy:
    """Positions `[begin, end)` of a session, in host memory."""

    begin: int
    end: int
    states: list[int]

    def wait(self) -> None:
        """See `PendingCopy`."""


class FakeMiddle:
    """The middle of one session: a state per cached position."""

    def __init__(self) -> None:
        self.states: list[int] = []

    def step(self, rows: Rows, position: int) -> Rows:
        """Deep rows `[T, H]` of shallow rows at `position`, after truncating to it."""
        assert position <= len(self.states), "a gap in the cache"
        del self.states[position:]
        deep = np.zeros_like(rows)
        for index, row in enumerate(rows):
            token, at = int(row[0]), int(row[1])
            assert at == position + index, "a row out of place"
            before = self.states[-1] if self.states else 1
            self.states.append(middle_hash(before, token, at))
            deep[index] = (self.states[-1], at, 0, 0)
        return deep

    def fork(self, num_tokens: int) -> "FakeMiddle":
        assert num_tokens <= len(self.states)
        copy = FakeMiddle()
        copy.states = self.states[:num_tokens]
        return copy

    def save(self, begin: int, end: int) -> "FakeCopy":
        assert end <= len(self.states)
        return FakeCopy(begin, end, self.states[begin:end])

    def restore(self, copy: "FakeCopy", begin: int, end: int) -> None:
        assert len(self.states) == begin >= copy.begin
        self.states += copy.states[begin - copy.begin : end - copy.begin]


class FakeDeviceEngine:
    """Input and output submodel; refuses gaps, double releases and unknown sequences."""

    def __init__(self, num_output_layers: int = 0) -> None:
        self.hidden_size = HIDDEN_SIZE
        self.vocab_size = VOCAB_SIZE
        self.max_context_tokens = MAX_CONTEXT_TOKENS
        self.num_output_layers = num_output_layers
        self.draft_limits: DraftLimits | None = None
        self.inputs: dict[SequenceId, list[int]] = {}
        self.outputs: dict[SequenceId, list[int]] = {}
        self.num_opened = 0
        self.num_input_tokens = 0

    def open(self) -> SequenceId:
        self.num_opened += 1
        sequence = SequenceId(self.num_opened)
        self.inputs[sequence], self.outputs[sequence] = [], []
        return sequence

    def input_rows(self, sequence: SequenceId, token_ids: Sequence[int], position: int) -> Rows:
        cache = self.inputs[sequence]
        if position > len(cache):
            raise ValueError(f"position {position} is beyond {len(cache)}")
        if position + len(token_ids) > self.max_context_tokens:
            raise ValueError("beyond the context")
        cache[position:] = token_ids
        self.num_input_tokens += len(token_ids)
        return shallow_rows(token_ids, position)

    def logits(self, sequence: SequenceId, deep: Rows, position: int, num_logits: int) -> Rows:
        # A hostile cloud's rows hold any number.
        states = [int(row[0]) % 2**16 for row in deep]
        if self.num_output_layers > 0:
            cache = self.outputs[sequence]
            if position > len(cache):
                raise ValueError(f"output position {position} is beyond {len(cache)}")
            del cache[position:]
            for index, deep_state in enumerate(states):
                last = cache[-1] if cache else 1
                cache.append(output_hash(last, deep_state, position + index))
            states = cache[position:]
        chosen = states[len(states) - num_logits :]
        return np.array([logits_of(state) for state in chosen], np.float32).reshape(-1, VOCAB_SIZE)

    def draft(self, sequence: SequenceId, request: DraftRequest) -> tuple[int, ...]:
        raise ValueError("expected an engine with an adapter to draft")

    def prepare_draft(self, sequence: SequenceId, num_rows: int) -> bool:
        return False

    def fork(self, sequence: SequenceId, num_tokens: int) -> SequenceId:
        copy = self.open()
        self.inputs[copy] = self.inputs[sequence][:num_tokens]
        self.outputs[copy] = self.outputs[sequence][:num_tokens]
        return copy

    def release(self, sequence: SequenceId) -> None:
        del self.inputs[sequence], self.outputs[sequence]

    @property
    def num_open(self) -> int:
        return len(self.inputs)


def plain_text(
    request: GenerationRequest,
    noise: Noise,
    num_output_layers: int = 0,
    max_context_tokens: int = MAX_CONTEXT_TOKENS,
) -> list[int]:
    """The output ids of the whole model, decoded one token at a time."""
    engine, middle = FakeDeviceEngine(num_output_layers), FakeMiddle()
    sequence = engine.open()
    sampler = Sampler(request, VOCAB_SIZE, noise)
    text, position = list(request.prompt_ids), 0
    num_prompt_tokens = len(text)
    while True:
        deep = middle.step(engine.input_rows(sequence, text[position:], position), position)
        row = engine.logits(sequence, deep, position, 1)[0]
        position = len(text)
        text.append(sampler.choose(row))
        sampler.commit(text[-1], row)
        num_output = len(text) - num_prompt_tokens
        if text[-1] in request.stop_token_ids or num_output == request.max_tokens:
            return text[num_prompt_tokens:]
        if len(text) == max_context_tokens:
            return text[num_prompt_tokens:]

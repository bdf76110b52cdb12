"""An answer of the draft model alone, for when there is no cloud: what it says is told as such."""

import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from device_runtime.engines.engine import DeviceEngine, DraftRequest, Rows, SequenceId, Workers
from device_runtime.generation.request import (
    CloudUnavailableError,
    Emission,
    FinishReason,
    GenerationRequest,
    Token,
)
from device_runtime.runtime.recorder import Recorder
from device_runtime.sampling.sampler import Sampler

_log = logging.getLogger(__name__)

_MADE_AT_ONCE = 32
"""Tokens of a prompt in one call on the engine, between which others have their turn."""


class LoneLog:
    """Says once for each time that the cloud is gone who answers meanwhile."""

    def __init__(self) -> None:
        self._num_connections: int | None = None

    def tell(self, num_connections: int, reason: str) -> None:
        """The draft model answers alone, after so many connections that worked."""
        if self._num_connections != num_connections:
            self._num_connections = num_connections
            _log.warning("until the cloud is back the draft model answers alone: %s", reason)


def check_answerable(request: GenerationRequest, reason: str) -> None:
    """Return if a draft model can give what a request asks for.

    Raises:
        CloudUnavailableError: the request wants its prompt scored, which is a question about the
            whole model; `reason` says why there is no cloud.
    """
    if request.num_prompt_logprobs is not None:
        raise CloudUnavailableError(
            f"{reason}; the draft model alone does not score prompts: that is asked of the model"
        )


@dataclass(slots=True)
class _Held:
    """The engine's sequence; its thread alone changes it, so that a cancelled call leaks none."""

    sequence: SequenceId | None = None


class LoneDraft:
    """One answer of input layers, adapter, output layers and head, a token at a time.

    Tokens are chosen by the request's own sampler, so masks, penalties, seeds and log probabilities
    are what they always are; the distribution is the draft model's.
    """

    def __init__(
        self,
        request: GenerationRequest,
        num_new_tokens: int,
        workers: Workers,
        sampler: Sampler,
        recorder: Recorder,
    ) -> None:
        self._request = request
        self._num_left = num_new_tokens
        self._workers = workers
        self._sampler = sampler
        self._recorder = recorder
        self._clock = recorder.clock
        self._held = _Held()
        self._pending = tuple(request.prompt_ids)
        """Tokens that the engine has not seen; the last one is what the next token is drafted
        behind."""
        self._position = 0

    async def run(self) -> AsyncGenerator[Emission]:
        """The answer; whoever reads it closes it, which frees the engine's sequence."""
        try:
            await self._workers.run(self._open)
            await self._read_prompt()
            while self._num_left > 0:
                yield await self._next()
        finally:
            # Behind whatever a cancelled call still does.
            self._workers.run_later(self._release)

    def _open(self, engine: DeviceEngine) -> None:
        self._held.sequence = engine.open()

    def _release(self, engine: DeviceEngine) -> None:
        if self._held.sequence is not None:
            engine.release(self._held.sequence)

    async def _read_prompt(self) -> None:
        """Make the prompt's rows but the last, and bring the adapter up to them."""
        started_s, num_rows = self._clock(), len(self._pending) - 1
        while len(self._pending) > 1:
            await self._workers.run(self._read_some)
        self._recorder.read_alone(started_s, num_rows)

    def _read_some(self, engine: DeviceEngine) -> None:
        sequence = self._sequence
        token_ids = self._pending[: min(_MADE_AT_ONCE, len(self._pending) - 1)]
        if engine.num_output_layers > 0:
            # Their past is made of estimates, since no other rows come.
            engine.draft(sequence, self._request_for(token_ids, None))
        else:
            engine.input_rows(sequence, token_ids, self._position)
            engine.prepare_draft(sequence, len(token_ids))
        self._advance(len(token_ids))

    async def _next(self) -> Emission:
        started_s = self._clock()
        token = await self._workers.run(self._decide)
        self._num_left -= 1
        reason: FinishReason | None = "length" if self._num_left == 0 else None
        if token.id in self._request.stop_token_ids:
            self._num_left, reason = 0, "stop"
        self._recorder.drafted_alone(started_s)
        return Emission((token,), reason, is_alone=True)

    def _decide(self, engine: DeviceEngine) -> Token:
        """On the engine's thread: choose the next token, and remember it."""
        decided: list[Token] = []
        pending = self._pending
        engine.draft(self._sequence, self._request_for(pending, decided))
        assert decided, "a draft model that stands alone always has an estimate"
        self._advance(len(pending))
        self._pending = (decided[0].id,)
        return decided[0]

    def _request_for(self, token_ids: tuple[int, ...], decided: list[Token] | None) -> DraftRequest:
        """One token behind these, which goes into `decided`; None: none is chosen."""

        def choose(logits: Rows, _: object) -> int | None:
            if decided is None:
                return None
            token_id = self._sampler.choose(logits)
            decided.append(self._sampler.commit(token_id, logits))
            return token_id

        return DraftRequest(
            token_ids, self._position, 1, choose, min_probability=0.0, is_alone=True
        )

    def _advance(self, num_tokens: int) -> None:
        self._position += num_tokens
        self._pending = self._pending[num_tokens:]

    @property
    def _sequence(self) -> SequenceId:
        assert self._held.sequence is not None, "opened first"
        return self._held.sequence

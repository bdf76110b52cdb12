"""The target's choice at a position: logits in, one token out, the same for greedy and sampled.

Order of processing, each step switched off by its default: logit bias; repetition, frequency and
presence penalties; what the grammar does not allow forbidden, what the request bans, and stop
tokens before `min_tokens`; then, unless greedy, temperature, min_p, top_k, top_p. vLLM masks before
it biases and penalises; minus infinity stays what it is under both, so the results are the same.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from device_runtime.engines.engine import Rows
from device_runtime.generation.request import (
    GenerationRequest,
    RankedToken,
    SamplingParams,
    Token,
)
from device_runtime.sampling.bans import TokenBans
from device_runtime.sampling.filters import Candidates, candidates
from device_runtime.sampling.penalties import TokenPenalties

Noise = Callable[[int, NDArray[np.int64]], NDArray[np.float64]]
"""Unit exponentials `[N]` of (absolute position, ascending token ids `[N]`)."""


class LogitsError(ValueError):
    """The model produced logits no token can be chosen from."""


class Sampler:
    """Chooses the tokens of one generation and remembers what it chose.

    A choice from weights w is `argmin E / w` with the position's exponentials E: an exponential
    race, won by each token with probability w / sum(w). Whoever asks at the same position with
    the same distribution gets the same token, which is what makes draft and target agree.
    """

    def __init__(self, request: GenerationRequest, vocab_size: int, noise: Noise) -> None:
        self._params = request.sampling
        self._vocab_size = vocab_size
        self._noise = noise
        self._num_prompt_tokens = len(request.prompt_ids)
        self._num_output_tokens = 0
        self._min_tokens = request.min_tokens
        self._num_logprobs = request.num_logprobs
        self._num_prompt_logprobs = request.num_prompt_logprobs or 0
        self._stop_ids = _ids(token for token in request.stop_token_ids if token < vocab_size)
        bias = request.sampling.logit_bias
        self._bias_ids = _ids(bias)
        if bias and not 0 <= min(bias) <= max(bias) < vocab_size:
            raise ValueError(f"logit_bias names a token outside [0, {vocab_size})")
        self._bias = np.array([bias[token] for token in sorted(bias)], dtype=np.float64)
        self._penalties = TokenPenalties(request.sampling, request.prompt_ids, vocab_size)
        self._bans = TokenBans(request.sampling, vocab_size)
        self.constraint = None if request.grammar is None else request.grammar.start()
        """What the output may be. It is committed to with the tokens; for one thread at a time."""

    @property
    def params(self) -> SamplingParams:
        """How the request wants its tokens chosen."""
        return self._params

    def choose(self, logits: Rows, draft: Sequence[int] = ()) -> int:
        """The token after everything committed so far and `draft`.

        Args:
            logits: `[V]`, the model's own, unchanged by this call.
            draft: Tokens assumed to be committed before this one.

        Raises:
            LogitsError: a NaN or positive infinity among the logits, or no token left to choose.
            GrammarError: the grammar cannot be followed any more.
        """
        if self._params.temperature == 0.0:
            return int(self._processed(logits, draft).argmax())
        field = self.distribution(logits, draft)
        position = self._num_prompt_tokens + self._num_output_tokens + len(draft)
        draws = self._noise(position, field.token_ids)
        return int(field.token_ids[(draws / field.weights).argmin()])

    def clear_choice(self, logits: Rows, draft: Sequence[int] = ()) -> tuple[int, float]:
        """What `choose` takes, and how clear the choice is: a share in (0, 1].

        The choice is the largest of some scores: logits after bias, penalties and mask, and unless
        greedy after temperature, filters and noise. The share is its weight in their softmax. Where
        it is near 1, logits that are a little different lead to the same choice. Greedy and without
        penalties it is the token's probability at temperature 1.

        Raises:
            LogitsError: as `choose`.
        """
        if self._params.temperature == 0.0:
            processed = self._processed(logits, draft)
            token = int(processed.argmax())
            return token, float(1.0 / np.exp(processed - processed[token]).sum())
        field = self.distribution(logits, draft)
        position = self._num_prompt_tokens + self._num_output_tokens + len(draft)
        odds = field.weights / self._noise(position, field.token_ids)
        place = int(odds.argmax())
        return int(field.token_ids[place]), float(odds[place] / odds.sum())

    def is_penalised(self, token_id: int, draft: Sequence[int] = ()) -> bool:
        """Whether penalties change this token's logit behind the text and `draft`."""
        return self._penalties.changes(token_id, draft)

    def choices(self, logits: Rows, num_tokens: int, draft: Sequence[int] = ()) -> list[int]:
        """The token `choose` takes and those it would take without it, in order; fewer if few can.

        Raises:
            LogitsError: as `choose`.
        """
        if self._params.temperature == 0.0:
            processed = self._processed(logits, draft)
            return [int(token) for token in np.argsort(-processed, kind="stable")[:num_tokens]]
        field = self.distribution(logits, draft)
        position = self._num_prompt_tokens + self._num_output_tokens + len(draft)
        order = (self._noise(position, field.token_ids) / field.weights).argsort(kind="stable")
        return [int(token) for token in field.token_ids[order[:num_tokens]]]

    def distribution(self, logits: Rows, draft: Sequence[int] = ()) -> Candidates:
        """What `choose` samples from at a temperature above 0; arguments and errors as there."""
        processed = self._processed(logits, draft)
        return candidates(processed.astype(np.float64, copy=False), self._params)

    def num_forced(self, draft: Sequence[int]) -> int:
        """How many tokens at the beginning of a draft are the only ones that may stand there.

        With bans none is: the text that a grammar forces may be written in other tokens.
        """
        if self.constraint is None or not draft or self._bans.active:
            return 0
        pairs = zip(draft, self.constraint.forced(), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    @property
    def wants_logprobs(self) -> bool:
        """Whether `commit` needs the logits of tokens that were no choice."""
        return self._num_logprobs is not None

    def commit(self, token_id: int, logits: Rows | None) -> Token:
        """Add a chosen token to the text; `logits` `[V]` are those it was chosen from.

        The log probabilities asked for come from these logits unmodified. None: of a token that a
        grammar forced, where nobody wants log probabilities.
        """
        self._num_output_tokens += 1
        self._penalties.add(token_id)
        self._bans.add(token_id)
        if self.constraint is not None:
            self.constraint.commit(token_id)
        if self._num_logprobs is None or logits is None:
            return Token(token_id)
        logprobs = log_probabilities(logits)
        return Token(token_id, float(logprobs[token_id]), most_likely(logprobs, self._num_logprobs))

    def ranked(self, token_id: int, logits: Rows) -> RankedToken:
        """A token of the prompt, with what the model thought of it: logits `[V]` of its place."""
        logprobs = log_probabilities(logits)
        top = most_likely(logprobs, self._num_prompt_logprobs)
        own = float(logprobs[token_id])
        return RankedToken(Token(token_id, own, top), int((logprobs >= own).sum()))

    def _processed(
        self, logits: Rows, draft: Sequence[int]
    ) -> NDArray[np.float32] | NDArray[np.float64]:
        """Logits `[V]` after bias, penalties and mask; the given array itself if none applies."""
        if logits.shape != (self._vocab_size,):
            raise LogitsError(f"expected logits [{self._vocab_size}], got {list(logits.shape)}")
        top = float(logits.max())
        if np.isnan(top) or top == np.inf:
            raise LogitsError(f"the largest logit is {top}: the model's numbers are broken")
        processed: NDArray[np.float32] | NDArray[np.float64] = logits
        too_early = self._num_output_tokens + len(draft) < self._min_tokens
        masked = too_early and len(self._stop_ids) > 0
        forbids = masked or self._bans.active or self.constraint is not None
        if forbids or self._penalties.active or len(self._bias):
            changed = logits.astype(np.float64)
            changed[self._bias_ids] += self._bias
            self._penalties.apply(changed, draft)
            self._forbid(changed, draft, masked)
            top = float(changed.max())
            processed = changed
        if top == -np.inf:
            raise LogitsError("no token is left to choose: all are forbidden")
        return processed

    def _forbid(self, logits: NDArray[np.float64], draft: Sequence[int], masked: bool) -> None:
        """Leave what may be chosen. Where nothing would be left, a wish gives way.

        First `min_tokens`, then bad words, then the allowed tokens; the grammar never does. A bias
        may make an allowed token as unlikely as it likes: it stays allowed.
        """
        if self.constraint is None and not self._bans.active:
            if masked:
                logits[self._stop_ids] = -np.inf
            return
        if self.constraint is None:
            allowed = np.ones(self._vocab_size, dtype=np.bool_)
        else:
            allowed = self.constraint.allowed(draft)
        too_early = (self._stop_ids,) if masked else ()
        for forbidden in (*self._bans.forbidden(draft), *too_early):
            left = allowed.copy()
            left[forbidden] = False
            allowed = left if left.any() else allowed
        logits[~allowed] = -np.inf


def log_probabilities(logits: Rows) -> NDArray[np.float64]:
    """Log softmax `[V]` in float64 of logits `[V]`, before any bias, penalty or filter."""
    shifted = logits.astype(np.float64) - float(logits.max())
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def most_likely(logprobs: NDArray[np.float64], num: int) -> tuple[tuple[int, float], ...]:
    """The `num` largest of `[V]` as (token id, log probability), equal ones by ascending id."""
    num = min(num, len(logprobs))
    if num == 0:
        return ()
    kth = np.partition(logprobs, len(logprobs) - num)[len(logprobs) - num]
    ids = np.flatnonzero(logprobs >= kth)
    order = ids[np.argsort(-logprobs[ids], kind="stable")][:num]
    return tuple((int(token), float(logprobs[token])) for token in order)


def _ids(ids: Iterable[int]) -> NDArray[np.int64]:
    return np.array(sorted(ids), dtype=np.int64)

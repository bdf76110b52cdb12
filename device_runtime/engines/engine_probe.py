"""Whether two engines of one bundle answer alike: the same tokens through both."""

from dataclasses import dataclass

import numpy as np

from device_runtime.engines.engine import DeviceEngine, Rows
from device_runtime.engines.timing import some_token_ids

_SPANS = ((0, 20), (20, 24), (22, 23), (23, 24), (24, 32))
"""Positions of each run: a prompt, a draft, other tokens in the place of its end, and on."""

_NUM_FORKED = 21
"""Positions of a copy, which then goes a way of its own."""

_FLOAT32 = 1e-4
"""Orders of summation and other exponentials differ by some 1e-6 of a row's length."""

_SIXTEEN_BITS = 1e-2
"""A number of float16 or TF32 has 5e-4 of itself; a few layers make that some 2e-3 of a row."""


_ROUNDED = 0.1
"""With integer weights the CPU rounds what goes into a product to 8 bits: some 0.02 of a row, and
0.04 in narrow layers. Who does not is nearer to the checkpoint, and chooses otherwise at times."""


class AnswersDifferError(ValueError):
    """Two engines do not answer alike; the message says in what."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Rows `[T, H]` behind the input layers, and logits `[T, V]` of them as if they were deep."""

    rows: Rows
    logits: Rows


def answers_of(engine: DeviceEngine) -> Answers:
    """What an engine makes of some tokens: in a long run and short ones, going back, in a copy.

    A few rows serve, since whoever computes wrongly does so at once; a context too short for all
    of them gets those that fit.
    """
    ids = list(some_token_ids(64, engine.vocab_size))
    rows: list[Rows] = []
    logits: list[Rows] = []
    sequences = [engine.open()]

    def run(index: int, begin: int, end: int) -> None:
        end = min(end, engine.max_context_tokens)
        if begin < end:
            taken = [ids.pop() for _ in range(begin, end)]
            rows.append(engine.input_rows(sequences[index], taken, begin))
            logits.append(engine.logits(sequences[index], rows[-1], begin, end - begin))

    try:
        for begin, end in _SPANS:
            run(0, begin, end)
        num_forked = min(_NUM_FORKED, engine.max_context_tokens - 1)
        sequences.append(engine.fork(sequences[0], num_forked))
        run(1, num_forked, num_forked + 2)
        run(0, _SPANS[-1][1], _SPANS[-1][1] + 1)
    finally:
        for sequence in sequences:
            engine.release(sequence)
    return Answers(np.concatenate(rows), np.concatenate(logits))


def check_alike(expected: Answers, found: Answers, is_rounded: bool = False) -> float:
    """The largest difference of a row, as a share of its length.

    `is_rounded`: the expected answers come of rounded numbers, so that they are no measure for more
    than nonsense.

    Raises:
        AnswersDifferError: it is more than 16-bit numbers explain, or a likeliest token is another.
    """
    most, largest = _ROUNDED if is_rounded else _SIXTEEN_BITS, 0.0
    for what, one, other in (
        ("row", expected.rows, found.rows),
        ("row of logits", expected.logits, found.logits),
    ):
        shares = _differences(one, other)
        worst = int(shares.argmax())
        if not shares[worst] <= most:
            raise AnswersDifferError(
                f"{what} {worst} differs by {_share(shares[worst])} of its length, expected at "
                f"most {most:g}"
            )
        largest = max(largest, float(shares[worst]))
    if is_rounded:
        return largest
    tokens, others = expected.logits.argmax(axis=-1), found.logits.argmax(axis=-1)
    if (wrong := np.flatnonzero(tokens != others)).size:
        first = int(wrong[0])
        raise AnswersDifferError(
            f"behind row {first} the likeliest token is {others[first]}, expected {tokens[first]}"
        )
    return largest


def is_float32(difference: float) -> bool:
    """Whether a difference is one of float32 numbers."""
    return difference <= _FLOAT32


def _differences(expected: Rows, found: Rows) -> Rows:
    """Of each row, as a share of its length; infinite where a number is none."""
    if found.shape != expected.shape:
        raise AnswersDifferError(f"expected numbers {expected.shape}, got {found.shape}")
    exact = expected.astype(np.float64)
    with np.errstate(all="ignore"):
        lengths = np.maximum(np.linalg.norm(exact, axis=-1), np.finfo(np.float32).tiny)
        shares: Rows = np.linalg.norm(found - exact, axis=-1) / lengths
    return np.where(np.isfinite(shares), shares, np.inf)


def _share(share: float) -> str:
    return f"{share:.2g}" if np.isfinite(share) else "more than any part"

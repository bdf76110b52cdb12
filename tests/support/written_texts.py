"""Made-up answers, as a replay of drafters takes them."""

from collections.abc import Sequence

import numpy as np

from bench.drafters.texts.cases import Case
from bench.drafters.texts.kept import Text


def text_of(
    prompt: Sequence[int],
    answer: Sequence[int],
    deep: np.ndarray,
    rule: str,
    max_tokens: int = 20,
) -> Text:
    """An answer to a prompt, with its deep rows."""
    case = Case(7, "chat", tuple(prompt))
    return Text(case, rule, 7, max_tokens, tuple(answer), deep)

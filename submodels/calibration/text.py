"""The text that a split measures a model's hidden states with.

Written for this project, under its licence. Scales of channels hardly depend on what is said, so it
is short; it has prose, a conversation, code, numbers and other languages, as requests do.
"""

import contextlib
from pathlib import Path

import numpy as np

from submodels.checkpoint.special_tokens import TOKENIZER_FILE

MOST_TOKENS = 256

TEXT = """\
The harbour was quiet that morning. Two fishermen were mending a net on the quay, and the older one
said that the wind would turn before noon. "You said so yesterday," answered the other, "and we
stayed at home for nothing." He laughed, but he looked at the sky all the same.

User: How do I find the largest number in a list, and where it stands?
Assistant: Go through the list once and remember the best place so far:

```python
def largest(numbers: list[float]) -> tuple[int, float]:
    place = 0
    for index, number in enumerate(numbers):
        if number > numbers[place]:
            place = index
    return place, numbers[place]
```

It takes one comparison for each of the n numbers. For 1,024 of them at 3.5 ns that is some 3.6 µs.

Wasser kocht auf einem Berg von 3000 Metern schon bei 90 Grad. Pourquoi ? Parce que la pression y
est plus faible. ¿Y en el mar? A cien grados. 水在高山上不到一百度就会沸腾。

1. Wash the rice until the water stays clear.
2. Let it rest for half an hour; then cook it with a little salt.
3. {"servings": 4, "minutes": 35, "vegetarian": true}

The committee has read the report of March 14, 2019, and agrees with its second section, though not
with the figures in table 7, which leave out the smaller towns in the north of the district.
"""


def calibration_ids(device: Path, vocab_size: int, most_tokens: int) -> list[int]:
    """Token ids of the text for the model whose device bundle is being made, at least one.

    Without a tokenizer that can be read they are drawn at random, always the same.
    """
    ids = _tokenized(device / TOKENIZER_FILE)
    known = [token_id for token_id in ids if token_id < vocab_size]
    if not known:
        known = np.random.default_rng(0).integers(0, vocab_size, MOST_TOKENS).tolist()
    return known[: min(MOST_TOKENS, most_tokens)]


def _tokenized(path: Path) -> list[int]:
    from tokenizers import Tokenizer

    ids: list[int] = []
    # The library raises plain exceptions for whatever it cannot read.
    with contextlib.suppress(Exception):
        ids = Tokenizer.from_file(str(path)).encode(TEXT).ids
    return ids

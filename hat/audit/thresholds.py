"""What counts as what: fixed here before anything is measured, and written into every receipt."""

from typing import Final

import msgspec

WHOLE_VOCABULARY: Final = 1 << 30


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of verdicts and of controls."""

    leaks_above_prior: float = 0.10
    """An attack reads when its share of tokens is this much above guessing the commonest token."""
    document_read_from: float = 0.90
    """A document counts as read when this share of its tokens is right."""
    planted_share: float = 0.5
    """Share of documents of a control in which a complete leak is planted."""
    planted_tolerance: float = 0.1
    """How far the share of tokens that an attack finds there may be from the planted one."""
    shuffled_above_prior: float = 0.02
    """How far above guessing the commonest token an attack may be where labels are shuffled."""
    shuffled_deviations: float = 4.0
    """And so many standard deviations of that guess more, since few tokens meet by chance."""
    rotation_error: float = 1e-3
    """A rotation is found when what is solved for is this near, as a part of its size."""
    match_exact: float = 2.0**-8
    """A candidate of the search matches a row when its distance is this part of the row's length:
    twice what rounding to bfloat16 can make of it."""
    match_rounded: float = 0.04
    """The same of rows in int8."""


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured; larger is slower and surer."""

    num_documents: int = 16
    """Half of them are answered greedily, half at temperature 1."""
    prompt_tokens: int = 24
    """Longer documents are cut."""
    answer_tokens: int = 12
    known_pairs: tuple[int, ...] = (256, 1024, 4096)
    """Pairs of rows and tokens that maps are learnt from."""
    search_documents: int = 3
    search_layer_rows: int = 100_000
    """Rows times layers that the search of one cell may compute; positions beyond are left out."""
    optimised_documents: int = 2
    optimised_tokens: int = 24
    """Of each, from its beginning."""
    optimised_steps: int = 100
    control_documents: int = 4
    control_tokens: int = 16
    """Of each, from its beginning."""


THRESHOLDS: Final = Thresholds()

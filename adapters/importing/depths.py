"""Which rows of the model an EAGLE-3 head reads, as depths: how many layers have run.

Depth d names the rows that enter layer d, so depth 0 is the embedding and depth L what leaves the
last layer. EAGLE-3's authors take 2, L // 2 and L - 3. Configurations that name layers do so in two
ways, and do not say in which.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.storage import AdapterError

_IDS = "eagle_aux_hidden_state_layer_ids"
NUM_DEPTHS = 3


def usual_depths(num_layers: int) -> tuple[int, ...]:
    """The depths of the published description, low to high.

    Source: Li et al., 2025 (arXiv:2503.01840), and the released code's three rows.
    """
    return 2, num_layers // 2, num_layers - 3


def depths_of(
    config: Mapping[str, Any], num_layers: int, asked: Sequence[int] = ()
) -> tuple[int, ...]:
    """The depths that a head was trained on; `asked` is the user's word and wins.

    vLLM and speculators number the rows that enter a layer, SGLang and the heads made for it those
    that leave one. Where the numbers are the usual ones in either way, both mean the same rows;
    speculators' own files follow the first.

    Raises:
        AdapterError: not three depths of this model, or numbers that could mean either.
    """
    usual = usual_depths(num_layers)
    nested = config.get("eagle_config")
    named = config.get(_IDS)
    if named is None and isinstance(nested, Mapping):
        named = nested.get(_IDS)
    ids = tuple(asked or named or usual)
    if len(ids) != NUM_DEPTHS or not all(type(i) is int and 0 <= i <= num_layers for i in ids):
        raise AdapterError(
            f"expected {NUM_DEPTHS} depths from 0 to {num_layers} for an EAGLE-3 head, "
            f"got {list(ids)}"
        )
    if asked or "speculators_model_type" in config or ids == usual:
        return ids
    if tuple(i + 1 for i in ids) == usual:
        return usual
    raise AdapterError(
        f"{_IDS} {list(ids)} may mean rows that enter these layers or rows that leave them; say "
        f"which with --depths, as in --depths {','.join(str(i + 1) for i in ids)} if it was made "
        "for SGLang"
    )

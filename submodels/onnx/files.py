"""Names of the ONNX files in a device bundle, and of what flows through them. Needs no onnx.

A graph is written once per weights format:

- `input.<weights>.onnx`, `output.<weights>.onnx`: decoder layers, `rows` `[1, T, H]` to
  `new_rows` `[1, T, H]`, with one key and one value cache `[1, KV, capacity, D]` per layer.
- `head.<weights>.onnx`: final norm and LM head, `rows` `[R, H]` to `logits` `[R, V]`, R >= 0.
- `adapter.<weights>.onnx`, when there is an adapter: one layer like those, estimated deep rows out.
  Of a fed adapter, and of one that drafts blocks in two layers, `rows` are `[1, T, 2 H + 1]`:
  shallow row, deep row of the position before, and 1 where that is known, else 0.
- `draft_head.<weights>.onnx`, when not every token can be drafted: a head of `k` tokens; and of a
  published head, which has one of its own.
  Of an adapter that drafts blocks it has every token's row where all can be drafted, and gives
  `inner` `[R, W]` besides.
- `draft_step.<weights>.onnx`, of an adapter that drafts blocks: `before` `[1, k]`, the logits of a
  place, `inner` `[1, W]`, `embedded` `[1, H]` of the token drafted before it and `state` `[1, S]`,
  to `logits` `[1, k]` and `new_state` `[1, S]`.
- `features.<weights>.onnx`, of a published EAGLE-3 head: `rows` `[R, 3 H]` of three depths to
  `new_rows` `[R, H]`.
"""

from enum import Enum
from typing import Literal, get_args

WeightsFormat = Literal["float32", "int8", "int4"]
WEIGHTS_FORMATS: tuple[WeightsFormat, ...] = get_args(WeightsFormat)

ROWS = "rows"
NEW_ROWS = "new_rows"
LOGITS = "logits"
LAST_POSITION = "last_position"
"""int32 `[1]`: positions in the cache after this run, minus one."""
NUM_POSITIONS = "num_positions"
"""int32 scalar: positions in the cache after this run."""
BEFORE, INNER, EMBEDDED, STATE, NEW_STATE = "before", "inner", "embedded", "state", "new_state"
COS = "cos"
SIN = "sin"


class Graph(Enum):
    """The graphs of a device bundle; a part without layers has none."""

    INPUT = "input"
    OUTPUT = "output"
    HEAD = "head"
    ADAPTER = "adapter"
    DRAFT_HEAD = "draft_head"
    DRAFT_STEP = "draft_step"
    FEATURES = "features"


def graph_file(graph: Graph, weights: str) -> str:
    """The file name of a graph with its matrices in `weights` format."""
    return f"{graph.value}.{weights}.onnx"


def angle_names(rope: int) -> tuple[str, str]:
    """Cosines and sines of the model's `rope`-th rotary embedding."""
    return (f"{COS}.{rope}", f"{SIN}.{rope}") if rope else (COS, SIN)


def past_names(layer: int) -> tuple[str, str]:
    """The key and value caches a layer reads."""
    return f"past_key.{layer}", f"past_value.{layer}"


def present_names(layer: int) -> tuple[str, str]:
    """The caches a layer writes; bound to the memory of `past_names`, so nothing is copied."""
    return f"present_key.{layer}", f"present_value.{layer}"

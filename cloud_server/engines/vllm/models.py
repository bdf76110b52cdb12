"""vLLM's model classes narrowed to their middle layers: hidden states in, hidden states out.

Each class of `plugin.BASES` with `HatMiddle` before its name is an attribute of this module, made
when it is first asked for. `described` has the one that is none of vLLM's.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import nn

from cloud_server.engines.vllm.plugin import BASES, PREFIX

_LAYERS = "model.layers."


class Taps(NamedTuple):
    """Which rows of a step are wanted between two layers: `rows` int64 `[S]` at each depth."""

    depths: Collection[int]
    rows: torch.Tensor


class ResidualSum(nn.Module):
    """Stands where the final norm was: layers carry a split residual, this closes it."""

    def forward(
        self, rows: torch.Tensor, residual: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """The hidden state `[T, H]` after the last layer, as `transformers` has it."""
        return rows if residual is None else (rows + residual, residual)


def run_tapped(
    model: Any,
    rows: torch.Tensor | None,
    partial: Mapping[str, torch.Tensor],
    positions: torch.Tensor,
    taps: Taps,
) -> tuple[Mapping[str, torch.Tensor] | torch.Tensor, dict[int, torch.Tensor]]:
    """What a stage's own forward gives, and rows `[S, H]` by depth, of the depths it passes.

    The layers run one after the other as in vLLM's classes, without the compiled graph around
    them, which gives no rows between two layers. `rows` `[T, H]` enter the first stage; the others
    get the `partial` of the one before.
    """
    stack, tapped = model.model, dict[int, torch.Tensor]()
    hidden: Any = partial["hidden_states"] if partial else rows
    residual: Any = partial.get("residual")
    for number in range(stack.start_layer, stack.end_layer):
        hidden, residual = stack.layers[number](positions, hidden, residual)
        if number + 1 in taps.depths:
            # New tensors: the next layer may write into these two.
            tapped[number + 1] = hidden[taps.rows]
            if residual is not None:
                tapped[number + 1] += residual[taps.rows]
    if isinstance(stack.norm, ResidualSum):
        return (hidden if residual is None else hidden + residual), tapped
    carried = {} if residual is None else {"residual": residual}
    return {"hidden_states": hidden, **carried}, tapped


def middle_of(base: type[Any]) -> type[Any]:
    """A model class of vLLM without final norm; its embedding and head are never used."""

    class Middle(base):  # type: ignore[misc]
        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            super().__init__(vllm_config=vllm_config, prefix=prefix)
            from vllm.distributed.parallel_state import get_pp_group

            if get_pp_group().is_last_rank:
                self.model.norm = ResidualSum()

        def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
            """Load the middle layers of a bundle, or of a whole checkpoint."""
            return load_middle(self, weights, super().load_weights)

    Middle.__name__ = Middle.__qualname__ = PREFIX + base.__name__
    Middle.__module__ = __name__
    return Middle


def load_middle(
    model: Any,
    weights: Iterable[tuple[str, torch.Tensor]],
    load: Callable[[Iterator[tuple[str, torch.Tensor]]], Iterable[str]],
) -> set[str]:
    """The names of all parameters: those that `load` has read, and those that are never used."""
    first = getattr(model.config, "hat_first_layer", 0)
    layers = range(first, first + model.config.num_hidden_layers)
    loaded = set(load(_middle_weights(weights, layers)))
    for name, parameter in model.named_parameters():
        if not name.startswith(_LAYERS):
            parameter.data.zero_()
            loaded.add(name)
    return loaded


def _middle_weights(
    weights: Iterable[tuple[str, torch.Tensor]], layers: range
) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of `layers`, which are renumbered from 0."""
    for name, weight in weights:
        if not name.startswith(_LAYERS):
            continue
        number, rest = name.removeprefix(_LAYERS).split(".", 1)
        if int(number) in layers:
            yield f"{_LAYERS}{int(number) - layers.start}.{rest}", weight


def __getattr__(name: str) -> Any:
    base = name.removeprefix(PREFIX)
    if not name.startswith(PREFIX) or base not in BASES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"vllm.model_executor.models.{BASES[base]}")
    made = globals()[name] = middle_of(getattr(module, base))
    return made

"""The output submodel on rows that the cloud returns: what the device is going to say."""

from collections.abc import Sequence

from torch import Tensor

from submodels.bundle.layers import DecoderLayer, Head, LayerCache, run_layers


def lens_scores(rows: Tensor, layers: Sequence[DecoderLayer], head: Head) -> Tensor:
    """Logits `[T, V]` of what follows, of a sequence's rows `[T, H]` from its first position on.

    Without layers this is the logit lens; with the device's output layers, or ones like them, it
    is what the device computes. Source: nostalgebraist, 2020, "interpreting GPT: the logit lens".
    """
    return head(run_layers(layers, rows, 0, [LayerCache() for _ in layers]))

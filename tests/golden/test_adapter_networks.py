import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adapters.data.whole_model import WholeModel
from adapters.networks import AdapterNetwork, BlockAdapter, FedAdapter, build_network, start_as
from adapters.storage import Kind, adapter_shape
from submodels.bundle.layers import LayerCache
from tests.support.adapter_models import make_whole_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> WholeModel:
    return make_whole_model(tmp_path_factory.mktemp("model"))


def random_network(model: WholeModel, kind: Kind, closing_norm: bool) -> AdapterNetwork:
    network = build_network(kind, adapter_shape(model.manifest.shape), closing_norm)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.2 * noise if parameter.dim() > 1 else 1 + 0.2 * noise)
    return network


def some_rows(model: WholeModel, num_rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num_rows, model.manifest.shape.hidden_size, generator=generator)


@torch.inference_mode()
def test_an_adapter_started_as_a_layer_is_that_layer(model: WholeModel) -> None:
    layer = model.middle_layers[0]
    network = build_network("layer", adapter_shape(model.manifest.shape), closing_norm=False)
    start_as(network, layer)
    rows = some_rows(model, 9)
    expected = layer.forward(rows, 0, LayerCache())
    torch.testing.assert_close(network(rows[None])[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("closing_norm", [False, True])
@pytest.mark.parametrize("kind", ["attention", "layer", "fed"])
@torch.inference_mode()
def test_rows_one_by_one_and_after_a_truncation_equal_the_whole_sequence(
    model: WholeModel, kind: Kind, closing_norm: bool
) -> None:
    network = random_network(model, kind, closing_norm)
    rows = some_rows(model, 12)
    whole = network(rows[None])[0]
    cache = LayerCache()
    network.extend(rows[:7], 0, cache)
    network.extend(torch.ones_like(rows[:4]), 7, cache)
    pieces = [network.extend(rows[5:6], 5, cache), network.extend(rows[6:], 6, cache)]
    torch.testing.assert_close(torch.cat(pieces), whole[5:], rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_a_sequence_of_several_blocks_equals_its_rows_one_after_the_other(
    model: WholeModel,
) -> None:
    network = random_network(model, "layer", closing_norm=False)
    rows, cache = some_rows(model, 300), LayerCache()
    whole = network(rows[None])[0]
    pieces = [network.extend(rows[s : s + 99], s, cache) for s in range(0, 300, 99)]
    torch.testing.assert_close(whole, torch.cat(pieces), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["attention", "layer", "fed", "block"])
@torch.inference_mode()
def test_a_new_adapter_passes_its_rows_through(model: WholeModel, kind: Kind) -> None:
    network = build_network(kind, adapter_shape(model.manifest.shape), closing_norm=False)
    rows = some_rows(model, 5)[None]
    torch.testing.assert_close(network(rows), rows, rtol=0, atol=0)


@torch.inference_mode()
def test_an_attention_adapter_is_four_matrices_and_two_norms(model: WholeModel) -> None:
    shape = model.manifest.shape
    network = build_network("attention", adapter_shape(shape), closing_norm=True)
    heads = shape.num_attention_heads + shape.num_key_value_heads
    expected = 2 * shape.hidden_size * heads * shape.head_dim + 2 * shape.hidden_size
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@torch.inference_mode()
def test_a_fed_adapter_is_its_formula_then_a_layer(model: WholeModel) -> None:
    network = random_network(model, "fed", closing_norm=False)
    layer = build_network("layer", adapter_shape(model.manifest.shape), closing_norm=False)
    own = layer.state_dict()
    layer.load_state_dict({name: network.state_dict()[name] for name in own})
    shallow, deep = some_rows(model, 9), some_rows(model, 10)[1:]
    is_known = torch.tensor([t in (2, 3, 7) for t in range(9)])
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    entering = np.stack(
        [
            shallow[t].numpy()
            + weights["fc.weight"]
            @ np.concatenate(
                (
                    normed(shallow[t].numpy(), weights["norm_shallow.weight"], model),
                    normed(deep[t].numpy(), weights["norm_deep.weight"], model)
                    if is_known[t]
                    else weights["absent"],
                )
            )
            for t in range(9)
        ]
    )
    expected = layer(torch.from_numpy(entering)[None])
    came = network(shallow[None], deep[None], is_known[None])
    torch.testing.assert_close(came, expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_fed_adapter_in_pieces_equals_whole_windows(model: WholeModel) -> None:
    network = random_network(model, "fed", closing_norm=False)
    assert isinstance(network, FedAdapter)
    shallow, deep, cache = some_rows(model, 12), some_rows(model, 13)[1:], LayerCache()
    is_known = torch.arange(12) % 3 == 1
    whole = network(shallow[None], deep[None], is_known[None])[0]
    pieces = [
        network.extend(shallow[s : s + 5], s, cache, deep[s : s + 5], is_known[s : s + 5])
        for s in range(0, 12, 5)
    ]
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_what_a_fed_adapter_is_not_told_is_not_looked_at(model: WholeModel) -> None:
    network = random_network(model, "fed", closing_norm=False)
    shallow, deep = some_rows(model, 6)[None], some_rows(model, 7)[None, 1:]
    nothing = torch.zeros(1, 6, dtype=torch.bool)
    torch.testing.assert_close(network(shallow, deep, nothing), network(shallow), rtol=0, atol=0)
    # Before the first position there is none.
    others = torch.cat((torch.full_like(deep[:, :1], 9.0), deep[:, 1:]), dim=1)
    torch.testing.assert_close(network(shallow, others), network(shallow, deep), rtol=0, atol=0)
    assert not torch.allclose(network(shallow, deep), network(shallow))


@torch.inference_mode()
def test_blocks_side_by_side_equal_each_behind_its_own_text(model: WholeModel) -> None:
    network = random_network(model, "block", closing_norm=False)
    assert isinstance(network, BlockAdapter)
    shallow, deep = some_rows(model, 24).view(2, 12, -1), some_rows(model, 25)[1:].view(2, 12, -1)
    is_known = torch.arange(24).view(2, 12) % 3 > 0
    anchors = torch.tensor([[2, 7, 7], [11, 0, 5]])
    text, tails = network.forward_blocks(shallow, deep, is_known, anchors)
    fed = torch.cat((shallow, deep, is_known[..., None].float()), dim=-1)
    for one in range(2):
        whole = network.extend_rows(fed[one], 0, (LayerCache(), LayerCache()))
        torch.testing.assert_close(text[one], whole, rtol=1e-4, atol=1e-4)
        for block, anchor in enumerate(anchors[one].tolist()):
            caches = (LayerCache(), LayerCache())
            network.extend_rows(fed[one, : anchor + 1], 0, caches)
            behind = fed[one, anchor].repeat(network.block_size - 1, 1)
            behind[:, : shallow.shape[-1]] = network.tail(shallow[one, anchor])
            alone = network.extend_rows(behind, anchor + 1, caches)
            torch.testing.assert_close(tails[one, block], alone, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_new_block_adapter_is_the_layer_that_it_was_started_as(model: WholeModel) -> None:
    shape, layer = adapter_shape(model.manifest.shape), model.middle_layers[0]
    network = build_network("block", shape, closing_norm=False)
    assert isinstance(network, BlockAdapter)
    start_as(network, layer)
    rows = some_rows(model, 9)
    expected = layer.forward(rows, 0, LayerCache())
    torch.testing.assert_close(network(rows[None])[0], expected, rtol=1e-5, atol=1e-5)
    final, tokens = rows[:6], rows[3:8]
    torch.testing.assert_close(network.sequel(final, tokens), final, rtol=0, atol=0)


def normed(
    row: NDArray[np.float32], weight: NDArray[np.float32], model: WholeModel
) -> NDArray[np.float32]:
    size = np.sqrt((row.astype(np.float64) ** 2).mean() + model.manifest.shape.rms_norm_eps)
    return (row / size * weight).astype(np.float32)

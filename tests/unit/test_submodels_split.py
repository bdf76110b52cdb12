"""What a split writes, and which checkpoints it refuses."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, AutoTokenizer

from submodels import split as split_module
from submodels.bundle.bundle import load_bundle
from submodels.checkpoint import checkpoint
from submodels.errors import CheckpointError, SplitError
from submodels.random_models import EOS_TOKEN_ID, RandomModel, make_random_model
from submodels.tensors.tensor_layout import Part
from tests.support.split_models import split

LAYERS = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_random_model(RandomModel("llama", num_layers=LAYERS), folder)
    return folder


@pytest.fixture
def own_model(tmp_path: Path) -> Path:
    """A checkpoint that the test may change."""
    make_random_model(RandomModel("llama", num_layers=LAYERS), tmp_path / "model")
    return tmp_path / "model"


def _change(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_cloud_bundle_holds_the_middle_layers_and_nothing_else(
    model: Path, tmp_path: Path
) -> None:
    split(model, tmp_path / "out", 1, 1)
    names = {path.name for path in (tmp_path / "out" / "cloud").iterdir()}
    assert names == {"hat.json", "config.json", "coding.json", "model.safetensors"}
    tensors = load_file(tmp_path / "out" / "cloud" / "model.safetensors")
    assert {name.split(".")[2] for name in tensors} == {"0", "1"}
    assert all(name.startswith("model.layers.") for name in tensors)
    source = load_file(model / "model.safetensors")
    for name, array in tensors.items():
        index, rest = name.removeprefix("model.layers.").split(".", 1)
        assert np.array_equal(array, source[f"model.layers.{int(index) + 1}.{rest}"])


def test_the_cloud_manifest_names_no_special_tokens(model: Path, tmp_path: Path) -> None:
    result = split(model, tmp_path / "out", 1)
    assert (result.cloud.bos_token_id, result.cloud.eos_token_ids) == (None, ())
    assert result.device.eos_token_ids == (EOS_TOKEN_ID,)


def test_the_device_bundle_holds_the_rest_renumbered_and_a_tokenizer(
    model: Path, tmp_path: Path
) -> None:
    split(model, tmp_path / "out", 1, 2)
    device = tmp_path / "out" / "device"
    source = load_file(model / "model.safetensors")
    inputs, outputs = (
        load_file(device / "input.safetensors"),
        load_file(device / "output.safetensors"),
    )
    assert np.array_equal(inputs["model.embed_tokens.weight"], source["model.embed_tokens.weight"])
    assert np.array_equal(outputs["lm_head.weight"], source["lm_head.weight"])
    for index in (0, 1):
        name = f"model.layers.{index}.mlp.up_proj.weight"
        assert np.array_equal(outputs[name], source[f"model.layers.{index + 2}.mlp.up_proj.weight"])
    assert AutoTokenizer.from_pretrained(device).decode(
        AutoTokenizer.from_pretrained(device).encode("Once é 🙂")
    ) == ("Once é 🙂")


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_the_cloud_config_is_one_of_its_family_for_the_middle_layers(
    tmp_path: Path, family: Any
) -> None:
    windows: dict[str, Any] = {}
    if family.startswith("qwen"):
        windows = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}
    made = RandomModel(family, num_layers=5, extra=windows, tied=True)
    make_random_model(made, tmp_path / "model")
    split(tmp_path / "model", tmp_path / "out", 1, 1)
    config = AutoConfig.from_pretrained(tmp_path / "out" / "cloud")
    name = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[family]
    assert config.architectures == [f"HatMiddle{name}ForCausalLM"]
    assert (config.num_hidden_layers, config.vocab_size, config.hat_first_layer) == (3, 64, 0)
    assert config.tie_word_embeddings is False
    assert (config.bos_token_id, config.eos_token_id) == (None, None)
    if windows:
        assert config.layer_types == ["full_attention", "sliding_attention", "sliding_attention"]
        assert config.max_window_layers == 1


def test_the_fingerprint_is_the_same_on_both_sides_and_for_every_split(
    model: Path, tmp_path: Path
) -> None:
    results = [split(model, tmp_path / "a", 1, 1), split(model, tmp_path / "b", 2, 1, name="other")]
    assert (
        len({r.device.fingerprint for r in results} | {r.cloud.fingerprint for r in results}) == 1
    )


def test_cast_numbers_have_their_own_fingerprint_and_still_name_their_source(
    model: Path, tmp_path: Path
) -> None:
    whole = split(model, tmp_path / "a", 1).device
    cast = split(model, tmp_path / "b", 1, dtype="bfloat16")
    assert cast.device.fingerprint == cast.cloud.fingerprint != whole.fingerprint
    assert cast.device.source_fingerprint == whole.source_fingerprint == whole.fingerprint
    load_bundle(tmp_path / "b", "device", verify=True)


def test_sharding_does_not_change_the_fingerprint(model: Path, tmp_path: Path) -> None:
    sharded = RandomModel("llama", num_layers=LAYERS, max_shard_bytes=100_000)
    make_random_model(sharded, tmp_path / "model")
    whole = split(model, tmp_path / "a", 1).device.fingerprint
    assert split(tmp_path / "model", tmp_path / "b", 1).device.fingerprint == whole


@pytest.mark.parametrize(
    "name",
    ["model.embed_tokens.weight", "model.layers.2.input_layernorm.weight", "lm_head.weight"],
)
def test_one_changed_number_anywhere_changes_the_fingerprint(
    model: Path, own_model: Path, tmp_path: Path, name: str
) -> None:
    tensors = load_file(own_model / "model.safetensors")
    tensors[name].flat[-1] += 1e-3
    save_file(tensors, own_model / "model.safetensors")
    before = split(model, tmp_path / "a", 1).cloud.fingerprint
    assert split(own_model, tmp_path / "b", 1).cloud.fingerprint != before


@pytest.mark.parametrize("change", [{"rms_norm_eps": 1e-3}, {"rope_theta": 7.0}])
def test_one_changed_constant_changes_the_fingerprint(
    own_model: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    before = split(own_model, tmp_path / "a", 1).cloud.fingerprint
    if "rope_theta" in change:
        change = {"rope_parameters": {"rope_type": "default", **change}}
    _change(own_model, **change)
    assert split(own_model, tmp_path / "b", 1).cloud.fingerprint != before


@pytest.mark.parametrize(("num_input", "num_output"), [(-1, 0), (0, -1), (4, 0), (2, 2), (0, 9)])
def test_a_split_without_middle_layers_is_refused(
    model: Path, tmp_path: Path, num_input: int, num_output: int
) -> None:
    with pytest.raises(SplitError, match="expected"):
        split(model, tmp_path / "out", num_input, num_output)
    assert list(tmp_path.iterdir()) == []


def test_every_layer_but_one_can_be_on_the_device(model: Path, tmp_path: Path) -> None:
    assert split(model, tmp_path / "out", 2, 1).cloud.num_middle_layers == 1


@pytest.mark.parametrize(("dtype", "stored"), [("float16", np.float16),
                                               ("bfloat16", ml_dtypes.bfloat16)])  # fmt: skip
def test_a_cast_rounds_as_torch_does(model: Path, tmp_path: Path, dtype: str, stored: Any) -> None:
    result = split(model, tmp_path / "out", 1, dtype=dtype)
    assert (result.device.dtype, result.cloud.dtype) == (dtype, dtype)
    name = "model.embed_tokens.weight"
    came = load_bundle(tmp_path / "out", "device").read_tensor(Part.INPUT, name)
    source = torch.from_numpy(load_file(model / "model.safetensors")[name])
    assert came.dtype == stored
    expected = source.to(getattr(torch, dtype)).float().numpy()
    assert np.array_equal(came.astype(np.float32), expected)


def test_numbers_too_large_for_float16_are_refused(own_model: Path, tmp_path: Path) -> None:
    tensors = load_file(own_model / "model.safetensors")
    tensors["model.norm.weight"][3] = 70000.0
    save_file(tensors, own_model / "model.safetensors")
    with pytest.raises(SplitError, match=r"model\.norm\.weight holds numbers too large"):
        split(own_model, tmp_path / "out", 1, dtype="float16")


def test_mixed_number_formats_are_kept_and_the_commonest_is_named(
    own_model: Path, tmp_path: Path
) -> None:
    tensors: dict[str, Any] = load_file(own_model / "model.safetensors")
    narrow = {
        name: array if "norm" in name else array.astype(ml_dtypes.bfloat16)
        for name, array in tensors.items()
    }
    save_file(narrow, own_model / "model.safetensors")
    result = split(own_model, tmp_path / "out", 1)
    assert result.device.dtype == "bfloat16"
    written = load_file(tmp_path / "out" / "device" / "output.safetensors")
    assert written["model.norm.weight"].dtype == np.float32
    assert np.array_equal(written["lm_head.weight"], narrow["lm_head.weight"])


def test_a_head_that_is_not_on_disk_is_tied_or_lost_as_the_configuration_says(
    own_model: Path, tmp_path: Path
) -> None:
    tensors = load_file(own_model / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, own_model / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"has no lm_head\.weight, .* a shard is lost"):
        split(own_model, tmp_path / "a", 1)
    _change(own_model, tie_word_embeddings=True)
    assert split(own_model, tmp_path / "b", 1).device.shape.tied_embeddings


def test_a_tied_model_with_a_head_on_disk_is_tied_only_if_they_are_equal(
    own_model: Path, tmp_path: Path
) -> None:
    _change(own_model, tie_word_embeddings=True)
    assert not split(own_model, tmp_path / "a", 1).device.shape.tied_embeddings
    tensors = load_file(own_model / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, own_model / "model.safetensors")
    assert split(own_model, tmp_path / "b", 1).device.shape.tied_embeddings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), r"lacks tensors \(1\): model\.norm\.weight"),
        (
            lambda t: t.update({"model.norm.bias": np.zeros(2, np.float32) + 1}),
            r"unknown tensors \(1\): model\.norm\.bias",
        ),
        (
            lambda t: t.update({"model.norm.weight": np.zeros(2, np.float32)}),
            r"model\.norm\.weight: expected shape \(64,\), got \(2,\)",
        ),
        (
            lambda t: t.update({"model.norm.weight": np.zeros(64, np.int32)}),
            r"model\.norm\.weight: expected one of F32, F16, BF16, got I32",
        ),
    ],
)
def test_tensors_other_than_the_plan_s_are_refused(
    own_model: Path, tmp_path: Path, change: Any, message: str
) -> None:
    tensors = load_file(own_model / "model.safetensors")
    change(tensors)
    save_file(tensors, own_model / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        split(own_model, tmp_path / "out", 1)


def test_frequencies_stored_by_old_checkpoints_are_ignored(own_model: Path, tmp_path: Path) -> None:
    tensors = load_file(own_model / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(8, np.float32)
    save_file(tensors, own_model / "model.safetensors")
    split(own_model, tmp_path / "out", 1)


def test_a_model_without_a_tokenizer_is_refused(own_model: Path, tmp_path: Path) -> None:
    (own_model / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        split(own_model, tmp_path / "out", 1)


def test_stop_tokens_are_the_generation_configs_first_and_the_tokenizers_own(
    own_model: Path, tmp_path: Path
) -> None:
    (own_model / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    result = split(own_model, tmp_path / "out", 1)
    assert result.device.eos_token_ids == (7, 9, 257)
    assert result.device.bos_token_id == 256


def test_ids_beyond_the_vocabulary_are_left_out_unless_nothing_else_would_end_an_answer(
    own_model: Path, tmp_path: Path
) -> None:
    path = own_model / "generation_config.json"
    path.write_text('{"eos_token_id": [100000, 7, -1], "bos_token_id": 261, "pad_token_id": -1}')
    result = split(own_model, tmp_path / "a", 1)
    assert (result.device.bos_token_id, result.device.eos_token_ids) == (None, (7, 257))
    (own_model / "tokenizer_config.json").write_text("{}")
    path.write_text('{"eos_token_id": 100000}')
    with pytest.raises(CheckpointError, match=r"ids in \[0, 261\), got \[100000\]: no token would"):
        split(own_model, tmp_path / "b", 1)
    path.write_text('{"eos_token_id": "2"}')
    with pytest.raises(CheckpointError, match=r"expected an id or a list of ids, got '2'"):
        split(own_model, tmp_path / "c", 1)


def test_progress_reaches_the_size_of_the_checkpoint(model: Path, tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    split_options = split_module.SplitOptions(str(model), tmp_path / "out", 1, onnx_weights=())
    split_module.split_checkpoint(split_options, lambda done, all_: reports.append((done, all_)))
    dones = [done for done, _ in reports]
    assert dones == sorted(dones)
    assert (
        dones[-1]
        == reports[-1][1]
        == sum(array.nbytes for array in load_file(model / "model.safetensors").values())
    )


def test_weights_pass_through_memory_in_small_pieces(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    read_whole = checkpoint.ShardTensor.pieces

    def in_pieces(self: Any, piece_bytes: int = 4096) -> Any:
        for piece in read_whole(self, piece_bytes):
            sizes.append(len(piece))
            yield piece

    monkeypatch.setattr(checkpoint.ShardTensor, "pieces", in_pieces)
    split(model, tmp_path / "out", 1, dtype="bfloat16")
    assert max(sizes) == 4096
    assert sum(sizes) == sum(a.nbytes for a in load_file(model / "model.safetensors").values())
    load_bundle(tmp_path / "out", "cloud", verify=True)


def test_a_large_checkpoint_is_split_in_little_memory(tmp_path: Path) -> None:
    large = RandomModel("llama", vocab_size=250_000, num_layers=2)
    make_random_model(large, tmp_path / "model")
    tracemalloc.start()
    try:
        split(tmp_path / "model", tmp_path / "out", 0, dtype="bfloat16")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "model" / "model.safetensors").stat().st_size > 120 << 20
    assert peak_bytes < 4 * checkpoint.PIECE_BYTES

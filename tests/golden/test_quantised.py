"""What tools have quantised says, once split, what the same numbers say unquantised.

The packing is this repository's (`tests/support/quantised_packing.py`), so the tools' own code is
asked as well: transformers dequantises fp8 and MXFP4 by itself; compressed-tensors (0.17 and 0.20
were tried; it has an AWQ reader too) packs and unpacks where it is installed (`make test-vllm`);
what bitsandbytes 0.50 packed and unpacked is in `tests/data/bitsandbytes`. With these two
transformers 5.24 dequantised checkpoints of every kind below into the same weights, each, and gave
the same logits. GPTQ and AWQ were
compared by hand, bit for bit, by the functions of GPTQModel 7.7 (`PackableQuantLinear`'s
`dequantize_weight`, `convert_gptq_v1_to_v2_format_module`; 2, 4 and 8 bits, both versions, with and
without `desc_act`, with zero points of 0 that carry) and of AutoAWQ 0.2.9 (`WQLinear_GEMM`'s
`from_linear`, `dequantize_gemm`), and so were checkpoints that transformers saved quantised by
bitsandbytes (nf4 nested, fp4, bytes called bfloat16, int8).
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from hat.verify.reference import UnsplitModel
from submodels.checkpoint.checkpoint import SourceTensor
from submodels.checkpoint.opening import opened_checkpoint
from submodels.random_models import RandomModel, make_random_model
from tests.support.family_models import FAMILY_MODELS
from tests.support.other_names import make_other_name
from tests.support.quantised_models import KINDS, MXFP4, Kind, quantise
from tests.support.reference import greedy, load_reference
from tests.support.split_models import SplitModel, random_tokens, reference_logits, split

MAX_ERROR = 1e-4
NUM_TOKENS = 40
_TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def numbers_of(source: SourceTensor) -> Tensor:
    """A tensor as it is read, in its own format."""
    held = bytearray(b"".join(source.pieces()))
    assert len(held) == source.num_bytes
    return torch.frombuffer(held, dtype=_TORCH[source.dtype]).reshape(source.shape)


def _made(kind: Kind, folder: Path, model: RandomModel | None = None) -> tuple[Path, Path]:
    """A quantised checkpoint, and the one it is read as."""
    model = model or RandomModel(num_layers=2, seed=3)
    make_random_model(replace(model, dtype=kind.dtype), folder / "model")  # type: ignore[arg-type]
    quantise(folder / "model", kind, folder / "packed", folder / "plain")
    return folder / "packed", folder / "plain"


def _assert_splits_alike(packed: Path, plain: Path, folder: Path, vocab_size: int = 261) -> None:
    came, expected = split(packed, folder / "one", 0, 1), split(plain, folder / "other", 0, 1)
    assert came.device.tensors == expected.device.tensors
    assert came.device.fingerprint == expected.device.fingerprint
    assert came.device.dtype == expected.device.dtype
    assert "quantization_config" not in (folder / "one" / "cloud" / "config.json").read_text()
    token_ids = random_tokens(NUM_TOKENS, vocab_size)
    logits = SplitModel(folder / "one").chunked_logits(token_ids, (7, 1, 16))
    assert (logits - reference_logits(plain, token_ids)).abs().max() < MAX_ERROR


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_a_quantised_checkpoint_says_what_its_numbers_say(kind: Kind, tmp_path: Path) -> None:
    _assert_splits_alike(*_made(kind, tmp_path), tmp_path)


def test_gpt_oss_as_it_is_published_says_what_its_numbers_say(tmp_path: Path) -> None:
    model = FAMILY_MODELS["gpt-oss"]
    _assert_splits_alike(*_made(MXFP4, tmp_path, model), tmp_path, model.vocab_size)


@pytest.mark.parametrize(
    ("family", "kind"),
    [("phi3", "awq"), ("qwen3 moe", "fp8, blocks"), ("mixtral", "gptq")],
)
def test_fused_matrices_and_experts_are_read_as_well(
    family: str, kind: str, tmp_path: Path
) -> None:
    model = replace(FAMILY_MODELS[family], num_layers=2)
    if family == "qwen3 moe":
        model = replace(model, extra={**model.extra, "moe_intermediate_size": 64})
    _assert_splits_alike(*_made(KINDS[kind], tmp_path, model), tmp_path, model.vocab_size)


@pytest.mark.parametrize("name", ["qwen3_vl", "mistral3"])
def test_the_text_part_of_a_wrapper_is_read_by_its_names(name: str, tmp_path: Path) -> None:
    kind = replace(KINDS["compressed-tensors, int4"], dtype="float32")
    make_other_name(name, tmp_path / "model")
    quantise(tmp_path / "model", kind, tmp_path / "packed", tmp_path / "plain")
    came, expected = (split(tmp_path / n, tmp_path / f"{n}-out", 1) for n in ("packed", "plain"))
    assert came.device.tensors == expected.device.tensors


@pytest.mark.parametrize("name", ["fp8, blocks", "fp8, one scale", "mxfp4"])
def test_every_number_is_the_one_that_transformers_dequantises(name: str, tmp_path: Path) -> None:
    """By transformers' own quantisers, `Fp8Dequantize` and `convert_moe_packed_tensors`."""
    is_mxfp4 = name == "mxfp4"
    model = FAMILY_MODELS["gpt-oss"] if is_mxfp4 else None
    packed, _ = _made(MXFP4 if is_mxfp4 else KINDS[name], tmp_path, model)
    theirs = AutoModelForCausalLM.from_pretrained(packed, dtype="auto").state_dict()
    with opened_checkpoint(packed) as checkpoint:
        assert checkpoint.tensors.keys() == theirs.keys()
        for tensor, source in checkpoint.tensors.items():
            ours = numbers_of(source)
            assert ours.dtype == theirs[tensor].dtype, tensor
            assert torch.equal(ours, theirs[tensor]), tensor


@pytest.mark.parametrize("name", ["fp8, blocks", "mxfp4"])
def test_what_verifying_compares_with_is_what_is_split(name: str, tmp_path: Path) -> None:
    """transformers would otherwise not round to the format that both are served in."""
    is_mxfp4 = name == "mxfp4"
    model = FAMILY_MODELS["gpt-oss"] if is_mxfp4 else None
    packed, plain = _made(MXFP4 if is_mxfp4 else KINDS[name], tmp_path, model)
    prompt = random_tokens(20, 256)
    expected = greedy(load_reference(plain), prompt, 12)
    answer = UnsplitModel(packed, "float32").greedy(prompt, 12)
    assert answer.ids == expected.ids
    assert answer.margins == pytest.approx(expected.margins, abs=MAX_ERROR)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("awq", "does not dequantise quant_method 'awq'"),
        ("gptq", "does not dequantise quant_method 'gptq'"),
        ("fp8, AutoFP8", "leaves out model.layers.0.*_scale"),
    ],
)
def test_what_transformers_cannot_dequantise_is_not_compared(
    name: str, words: str, tmp_path: Path
) -> None:
    packed, _ = _made(KINDS[name], tmp_path)
    with pytest.raises(ValueError, match=words):
        UnsplitModel(packed, "float32")


def test_settings_that_transformers_does_not_find_are_not_compared(tmp_path: Path) -> None:
    """It would make up the weights that it misses."""
    packed, _ = _made(KINDS["gptq"], tmp_path)
    config = json.loads((packed / "config.json").read_text())
    (packed / "quantize_config.json").write_text(json.dumps(config.pop("quantization_config")))
    (packed / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"it does not know of 'gptq' outside config\.json"):
        UnsplitModel(packed, "float32")


def _read_alone(tensors: dict[str, Tensor], settings: dict[str, Any], folder: Path) -> Tensor:
    """What is read of one matrix that was stored by somebody else."""
    from safetensors.torch import save_file

    stored = {f"model.layers.0.mlp.up_proj{k}": v.contiguous() for k, v in tensors.items()}
    save_file(stored, folder / "model.safetensors")
    config = {"model_type": "llama", "dtype": "bfloat16", "quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(config))
    with opened_checkpoint(folder) as checkpoint:
        [source] = checkpoint.tensors.values()
        assert source.name == "model.layers.0.mlp.up_proj.weight"
        return numbers_of(source)


_GROUPS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
_ROWS = {"type": "int", "strategy": "channel"}
_OWN = {
    "int4": ("pack-quantized", {**_GROUPS, "symmetric": True}, "bfloat16"),
    "int4 with zero points": ("pack-quantized", {**_GROUPS, "symmetric": False}, "float16"),
    "int4 in order of activations": (
        "pack-quantized",
        {**_GROUPS, "symmetric": False, "actorder": "group"},
        "bfloat16",
    ),
    "packed int8": ("pack-quantized", {**_ROWS, "num_bits": 8, "symmetric": False}, "float32"),
    "int8": ("int-quantized", {**_ROWS, "num_bits": 8, "symmetric": True}, "bfloat16"),
    "int8 with zero points": ("int-quantized", {**_ROWS, "symmetric": False}, "bfloat16"),
    "fp8 by row": (
        "float-quantized",
        {"num_bits": 8, "type": "float", "strategy": "channel"},
        "float32",
    ),
    "fp8 by block": (
        "float-quantized",
        {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [32, 32]},
        "bfloat16",
    ),
}


@pytest.mark.parametrize("name", _OWN)
def test_what_compressed_tensors_packs_is_what_it_unpacks(name: str, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    kind, weights, scale_format = _OWN[name]
    try:
        args = QuantizationArgs(**weights)
    except ValueError as error:
        # Versions from 0.20 on, or thereabouts, know no such order any more.
        pytest.skip(f"this version refuses it: {error}")
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    generator = torch.Generator().manual_seed(4)
    rows, columns = 64, 96
    grid = {"group": (rows, 3), "channel": (rows, 1), "block": (2, 3)}[args.strategy]
    scale = torch.rand(grid, generator=generator) * 0.02 + 0.005
    if args.num_bits == 4:
        scale *= 16
    state = {
        "weight": torch.randn(rows, columns, generator=generator).bfloat16(),
        "weight_scale": scale.to(getattr(torch, scale_format)),
    }
    if not args.symmetric:
        half = 1 << (args.num_bits - 1)
        zeros = torch.randint(-half, half, grid, generator=generator)
        state["weight_zero_point"] = zeros.to(torch.int8)
    if args.actorder == "group":
        order = torch.randperm(columns, generator=generator) // 32
        state["weight_g_idx"] = order.to(torch.int32)
    compressor = BaseCompressor.get_value_from_registry(kind)
    packed = compressor.compress(state, scheme)
    settings = {
        "quant_method": "compressed-tensors",
        "format": kind,
        "config_groups": {"group_0": json.loads(scheme.model_dump_json())},
    }
    ours = _read_alone({f".{key}": value for key, value in packed.items()}, settings, tmp_path)
    theirs = compressor.decompress(packed, scheme)["weight"].bfloat16()
    assert theirs.float().std() > 0.3
    assert torch.equal(ours, theirs)


def test_awq_and_rests_of_blocks_are_what_compressed_tensors_converters_read(
    tmp_path: Path,
) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.entrypoints.convert.converters.autoawq import AutoAWQConverter
    from compressed_tensors.entrypoints.convert.converters.fp8block_dequantizer import (
        FP8BlockDequantizer,
    )

    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(5))
    kind = KINDS["awq"]
    packed, _ = kind.pack(weight)
    codes, scales, zeros = AutoAWQConverter(group_size=32)._convert_gemm_module(
        packed[".qweight"], packed[".scales"], packed[".qzeros"]
    )
    zeros, scales = (each.half().repeat_interleave(32, 1) for each in (zeros, scales))
    theirs = ((codes.half() - zeros) * scales).bfloat16()
    assert torch.equal(_read_alone(dict(packed), dict(kind.settings), tmp_path), theirs)
    kind = KINDS["fp8, blocks that leave rests"]
    packed, _ = kind.pack(weight)
    reader = FP8BlockDequantizer(weight_block_size=(40, 48))
    theirs = reader._create_dequantized_weight(packed[".weight"], packed[".weight_scale_inv"])
    (tmp_path / "fp8").mkdir()
    assert torch.equal(_read_alone(dict(packed), dict(kind.settings), tmp_path / "fp8"), theirs)


_BY_BITSANDBYTES = Path(__file__).parents[1] / "data" / "bitsandbytes" / "packed.safetensors"


@pytest.mark.parametrize(
    ("what", "settings"),
    [
        ("nf4", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
        ("nf4, nested", {"load_in_4bit": True, "bnb_4bit_use_double_quant": True}),
        ("fp4", {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}),
        ("fp4, nested", {"load_in_4bit": True, "bnb_4bit_use_double_quant": True}),
        ("int8", {"load_in_8bit": True}),
    ],
)
def test_what_bitsandbytes_packed_is_what_it_unpacked(
    what: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Both are in a file that bitsandbytes 0.50 made (`make.py` beside it)."""
    stored = load_file(_BY_BITSANDBYTES)
    parts = {k.partition("/")[2]: v for k, v in stored.items() if k.partition("/")[0] == what}
    theirs = parts.pop("unpacked")
    ours = _read_alone(parts, {"quant_method": "bitsandbytes", **settings}, tmp_path)
    assert theirs.float().std() > 0.3
    assert torch.equal(ours, theirs)

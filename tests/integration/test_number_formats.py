"""What crosses the link for each pair of number formats, and what comes of it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from cloud_server.engines.torch import probe as torch_probe
from cloud_server.number_format import FORMATS, FormatTimes
from device_runtime.generation.request import CloudUnavailableError, GenerationRequest
from hat.cli import hat
from hat.verify import split_model
from submodels.random_models import RandomModel, make_random_model
from tests.support.stack import GREEDY, generate_with_stats, running_stack, split_for_serving
from wire.codec import STATES
from wire.limits import ITEM_BYTES
from wire.messages import Dtype

HIDDEN = 64
PROMPT = tuple(range(3, 43))
NUM_TOKENS = 12
NUM_ROWS = len(PROMPT) + NUM_TOKENS - 1
FAST = FormatTimes(1.0, 0.1)
SLOW = FormatTimes(9.0, 1.0)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def bundle(dtype: str) -> Path:
        if dtype not in made:
            folder = tmp_path_factory.mktemp(dtype)
            make_random_model(RandomModel(num_layers=3, dtype=dtype), folder / "model")
            made[dtype] = split_for_serving(folder / "model", folder / "out", 1)
        return made[dtype]

    return bundle


async def _ids_and_row_bytes(folder: Path, engine: str, wire: str) -> tuple[list[int], float]:
    """The greedy ids, and the bytes of each row that went up, headers apart."""

    cloud = {"dtype": engine, "wire_dtype": wire}
    async with running_stack(
        folder, {"drafter": "none", "chunk_tokens": 0, "wire_codec": "raw"}, cloud
    ) as stack:
        request = GenerationRequest(PROMPT, NUM_TOKENS, GREEDY)
        ids, stats = await generate_with_stats(stack.runtime, request)
    num_frames = stats.num_chunks + stats.num_rounds
    return ids, (stats.bytes_up - num_frames * STATES.size) / NUM_ROWS


@pytest.mark.parametrize("engine", FORMATS)
@pytest.mark.parametrize("wire", FORMATS)
async def test_a_row_takes_the_bytes_of_the_wires_format_whatever_the_engine(
    bundles: Callable[[str], Path], engine: str, wire: str
) -> None:
    _, row_bytes = await _ids_and_row_bytes(bundles("bfloat16"), engine, wire)
    assert row_bytes == HIDDEN * ITEM_BYTES[FORMATS[wire]]


@pytest.mark.parametrize("engine", ["auto", "float32"])
@pytest.mark.parametrize("stored", FORMATS)
async def test_an_engine_in_float32_does_not_double_the_uplink_unasked(
    bundles: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, engine: str, stored: str
) -> None:
    times = {FORMATS[stored]: SLOW, Dtype.FP32: FAST}
    monkeypatch.setattr(torch_probe, "measure_formats", lambda *_: times)
    _, row_bytes = await _ids_and_row_bytes(bundles(stored), engine, "auto")
    assert row_bytes == HIDDEN * ITEM_BYTES[FORMATS[stored]]


async def test_wider_rows_give_a_bfloat16_engine_the_same_ids(
    bundles: Callable[[str], Path],
) -> None:
    folder = bundles("bfloat16")
    own, _ = await _ids_and_row_bytes(folder, "bfloat16", "bfloat16")
    wide, _ = await _ids_and_row_bytes(folder, "bfloat16", "float32")
    assert own == wide


async def test_rows_beyond_the_wires_format_end_the_answer_with_its_name(
    tmp_path: Path,
) -> None:
    model = tmp_path / "model"
    make_random_model(RandomModel(num_layers=3, dtype="bfloat16"), model)
    tensors = load_file(model / "model.safetensors")
    tensors["model.embed_tokens.weight"] *= 1e6
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    folder = split_for_serving(model, tmp_path / "out", 1)
    with pytest.raises(CloudUnavailableError, match="FP16 rows"):
        await _ids_and_row_bytes(folder, "float32", "float16")


def test_verify_asks_for_float32_on_both(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def serve(config: object, *_: object) -> object:
        asked.append(config)
        raise split_model.CommandError("far enough")

    monkeypatch.setattr(split_model, "serve_cloud", serve)
    CliRunner().invoke(hat, ["verify", "--num-prompts", "1", "--max-tokens", "1"])
    ((config),) = asked
    assert (config.dtype, config.wire_dtype) == ("float32", "float32")

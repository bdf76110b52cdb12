"""`hat bench live` end to end: real processes over a relayed link, two arms, two prompts."""

from pathlib import Path

import pytest

from adapters.medusa_heads import install_heads
from bench.arms import ARMS, Arm
from bench.records import Cell, read_run
from device_runtime.generation.request import GenerationRequest
from hat.cli import run
from tests.support.stack import GREEDY, generate_with_stats, running_stack, split_for_serving
from tests.support.tokenizers import MODEL_FOLDER
from wire.limits import MAX_HEADER_BYTES

pytestmark = pytest.mark.alone

MAX_TOKENS = 12
LINK = "up=50mbit,down=50mbit,rtt=4ms"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live") / "m1"
    split_for_serving(MODEL_FOLDER, folder, 1)
    install_heads(folder / "device", MODEL_FOLDER.with_name("stories260k-medusa"))
    return folder


@pytest.fixture(scope="module")
def cells(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cell]:
    """A run of two arms, by name."""
    out = tmp_path_factory.mktemp("results") / "run.json"
    code = run(
        [
            *("bench", "live", "--model", str(bundles), "--arms", "cloud-only,hat"),
            *("--link", LINK, "--link-kind", "tcp", "--requests", "2"),
            *("--max-tokens", str(MAX_TOKENS), "--out", str(out)),
        ]
    )
    assert code == 0
    result = read_run(out)
    assert result.kind == "live"
    assert result.receipt.started is not None
    return {cell.arm: cell for cell in result.cells}


def test_both_arms_answered_with_the_same_texts(cells: dict[str, Cell]) -> None:
    assert list(cells) == ["cloud-only", "hat"]
    texts = [[one.output_sha256 for one in cell.requests] for cell in cells.values()]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 2


def test_every_token_has_a_time(cells: dict[str, Cell]) -> None:
    for cell in cells.values():
        for request in cell.requests:
            assert request.error is None
            assert request.output_tokens == MAX_TOKENS
            times = [time_s for time_s, _ in request.emissions]
            assert times == sorted(times)
            assert times[0] > cell.link.delay_s


def test_figures_of_the_link_the_cloud_and_the_rounds_are_beside(cells: dict[str, Cell]) -> None:
    for cell in cells.values():
        assert cell.link.kind == "tcp"
        assert any("torch" in note for note in cell.notes)
        assert cell.link.measured_rtt_s is not None
        assert cell.link.measured_rtt_s["p50"] >= 2 * cell.link.delay_s
        assert len(cell.cloud_step_s) == len(cell.cloud_step_tokens) > 0
        assert all(seconds > 0 for seconds in cell.cloud_step_s)
        for request in cell.requests:
            assert sum(request.chunk_tokens) == request.prompt_tokens
            assert min(request.bytes_up, request.bytes_down) > 0
    plain, hat = cells["cloud-only"].requests[0], cells["hat"].requests[0]
    assert plain.rounds == MAX_TOKENS - 1
    assert hat.rounds + sum(hat.accepted_by_position) == MAX_TOKENS - 1
    assert {span.lane for span in hat.spans} == {"device", "uplink", "cloud", "downlink"}
    assert cells["hat"].requests[1].spans == []


@pytest.mark.parametrize(
    "arm", [arm for arm in ARMS if arm.where == "split"], ids=lambda arm: arm.name
)
async def test_of_a_prompt_only_the_last_row_comes_back(bundles: Path, arm: Arm) -> None:
    prompt = [1, *range(300, 500)]
    request = GenerationRequest(prompt, max_tokens=1, sampling=GREEDY)

    async with running_stack(bundles, arm.device, arm.cloud) as stack:
        stats = (await generate_with_stats(stack.runtime, request))[1]
    row_bytes = 64 * 4
    assert stats.bytes_up + stats.saved_up >= len(prompt) * row_bytes
    raw_down = stats.bytes_down + stats.saved_down
    assert row_bytes < raw_down <= row_bytes + stats.num_chunks * MAX_HEADER_BYTES


def test_an_arm_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "live", "--arms", "hat,nothing", "--out", "x.json"]) == 2
    assert "got 'nothing'" in capsys.readouterr().err

"""Devices with different ends over one cloud, at the same time and in one batch."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cloud_server.core.actions import ConnectionId, Step, StepWork
from cloud_server.core.step_book import Running, StepBook
from device_runtime.config import DeviceConfig
from device_runtime.generation.request import GenerationRequest
from device_runtime.runtime.runtime import Runtime
from device_runtime.server import serve_device
from submodels.split import SplitOptions, split_checkpoint
from tests.support.event_loop import until
from tests.support.other_ends import fine_tune, nudged, with_more_tokens
from tests.support.reference import (
    STORIES,
    Greedy,
    first_difference,
    greedy,
    load_reference,
    story_prompts,
)
from tests.support.stack import (
    GREEDY,
    cloud_config,
    connected_device,
    gather_bounded,
    generate_ids,
    serve_cloud,
    split_for_serving,
)
from tests.support.world import REAL

MAX_TOKENS = 24
NUM_PROMPTS = 6
STOP_IDS = frozenset({1, 2})


class StepRecords:
    """Whose rows were in each step, by connection; what the cloud's own book was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[frozenset[ConnectionId]] = []
        begin = StepBook.begin

        def recorded(book: StepBook, work: Sequence[tuple[Running, StepWork]]) -> Step:
            self.steps.append(frozenset(piece.connection for (_, piece), _ in work))
            return begin(book, work)

        monkeypatch.setattr(StepBook, "begin", recorded)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_for_serving(STORIES, tmp_path_factory.mktemp("base") / "bundles", 1, 1)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another embedding (with tokens of its own), first and last layer and final norm."""
    ends = nudged("embed_tokens", "layers.0.", "layers.4.", "model.norm", by=0.3)

    def change(tensors: dict[str, Any]) -> None:
        with_more_tokens(9)(tensors)
        ends(tensors)

    folder = tmp_path_factory.mktemp("tuned") / "model"
    return fine_tune(STORIES, folder, change, {"vocab_size": 521})


def _answers(model: Path) -> list[tuple[list[int], Greedy]]:
    """Prompts of the stories, and what the unsplit model makes of them."""
    unsplit = load_reference(model)
    return [(prompt, greedy(unsplit, prompt, MAX_TOKENS)) for prompt in story_prompts(NUM_PROMPTS)]


def _calls(
    runtime: Runtime, answers: Sequence[tuple[list[int], Greedy]]
) -> list[Callable[..., Any]]:
    requests = [GenerationRequest(prompt, MAX_TOKENS, GREEDY, STOP_IDS) for prompt, _ in answers]
    return [partial(generate_ids, runtime, each) for each in requests]


async def test_two_ends_over_one_middle_say_in_one_batch_what_each_model_says_by_itself(
    base: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SplitOptions(str(tuned), tmp_path / "ends", None, middle_of=base)
    ends = split_checkpoint(options).out
    records = StepRecords(monkeypatch)
    plain, other = _answers(STORIES), _answers(tuned)
    assert [answer.ids for _, answer in plain] != [answer.ids for _, answer in other]
    async with (
        serve_cloud(cloud_config(base)) as cloud,
        connected_device(base, cloud.url) as first,
        connected_device(ends, cloud.url) as second,
    ):
        calls = [*_calls(first.runtime, plain), *_calls(second.runtime, other)]
        came = await gather_bounded(calls, len(calls))
    for (_, reference), ids in zip([*plain, *other], came, strict=True):
        difference = first_difference(reference, ids)
        assert difference is None or difference.is_tie
    assert len(frozenset().union(*records.steps)) == 2
    num_mixed = sum(len(connections) == 2 for connections in records.steps)
    assert num_mixed > 0, f"{len(records.steps)} steps, each of one device"


async def test_a_device_of_an_earlier_release_meets_the_same_cloud_and_other_ends_do_not(
    base: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that names its whole model, as `hat.json` of then has it."""
    import device_runtime.server

    whole = split_for_serving(tuned, tmp_path / "whole", 1, 1)
    monkeypatch.setattr(device_runtime.server, "middle_fingerprint_of", lambda _: "")
    async with serve_cloud(cloud_config(base)) as cloud:
        async with connected_device(base, cloud.url) as device:
            assert device.link.status.is_connected
        config = DeviceConfig(bundle=whole, port=0, cloud=cloud.url, threads=1)
        async with serve_device(config, REAL) as device:
            await until(lambda: "expected weights" in (device.link.status.reason or ""))

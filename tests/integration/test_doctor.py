"""`hat doctor` beside a real cloud: what it finds, foretells, and says of faults."""

import asyncio
import json
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from hat.cli import hat
from tests.support.event_loop import until
from tests.support.stack import cloud_config, split_for_serving
from tests.support.tokenizers import MODEL_FOLDER
from tests.support.world import serve_cloud


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return split_for_serving(MODEL_FOLDER, tmp_path_factory.mktemp("bundles") / "out", 1)


async def doctor(*arguments: Any, environ: Mapping[str, str] | None = None) -> tuple[int, str]:
    """The exit code and what was printed."""
    words = ["doctor", *(str(argument) for argument in arguments)]

    def run() -> tuple[int, str]:
        result = CliRunner().invoke(hat, words, env=environ, standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        return result.return_value, result.stdout

    return await asyncio.to_thread(run)


async def findings(*arguments: Any) -> tuple[int, dict[str, Any]]:
    """The exit code and the document for programs."""
    code, text = await doctor(*arguments, "--json")
    return code, json.loads(text)


async def test_without_a_cloud_it_tells_what_the_device_can_do(bundles):
    code, found = await findings(bundles, "--threads", 1)

    assert code == 0
    assert found["problems"] == []
    (times,) = found["device"]["weights"]
    assert times["weights"] == "float32"
    assert 0 < times["layers"]["fixed_s"] + times["layers"]["token_s"] < 1
    assert 0 < times["head"]["fixed_s"] + times["head"]["token_s"] < 1
    assert found["device"]["memory"]["used_bytes"] > 1e6
    assert found["cloud"] is None
    assert found["expected"] is None


async def test_with_a_cloud_it_tells_what_to_expect_and_what_it_cost(bundles):
    async with serve_cloud(cloud_config(bundles)) as cloud:
        code, found = await findings(bundles, "--cloud", cloud.url, "--threads", 1)

        # Both sessions are closed at the end; the cloud learns of it in a moment.
        await until(lambda: cloud.daemon.figures().num_sessions == 0)

    assert code == 0
    assert found["problems"] == []
    assert found["cloud"]["max_context_tokens"] == 512
    rows = [point["num_rows"] for point in found["cloud"]["steps"]]
    assert rows == sorted(rows)
    assert rows[0] == 1
    assert rows[-1] >= 64
    assert 0 < found["link"]["delay_s"] < 0.5
    prompts = {each["num_tokens"]: each["ttft_s"] for each in found["expected"]["prompts"]}
    # The model's context ends at 512.
    assert list(prompts) == [100]
    assert 0 < prompts[100] < 5
    assert 1 < found["expected"]["plain"]["tokens_per_s"] < 5000
    assert {each["about"] for each in found["advice"]} >= {"m", "k", "weights", "drafter", "chunks"}
    assert all(each["reason"] for each in found["advice"])
    assert found["cost"]["bytes_up"] < 4_000_000
    assert 0 < found["cost"]["seconds"] < 60


async def test_what_a_person_reads_has_units_and_the_commands_to_change_it(bundles):
    async with serve_cloud(cloud_config(bundles)) as cloud:
        code, text = await doctor(bundles, "--cloud", cloud.url, "--threads", 1)

    assert code == 0
    for word in ("device", "memory", "link", "cloud", "expect", "advice", "cost"):
        assert f"\n{word} " in f"\n{text}"
    assert "hat split" in text
    assert "hat adapter train" in text
    assert max(len(line) for line in text.splitlines()) <= 120


async def test_faults_are_findings_with_a_remedy_and_the_device_is_measured_all_the_same(
    bundles, tmp_path
):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"ws://127.0.0.1:{probe.getsockname()[1]}"
    code, found = await findings(bundles, "--cloud", nobody, "--threads", 1)
    assert code == 1
    assert "is it running there?" in found["problems"][0]
    assert found["device"]["weights"]

    secret = tmp_path / "secret"
    secret.write_text("not-this-one\n")
    secret.chmod(0o600)
    other = split_for_serving(MODEL_FOLDER, tmp_path / "other", 2)
    config = replace(cloud_config(bundles), secret="the-right-one")
    async with serve_cloud(config) as cloud, serve_cloud(cloud_config(other)) as stranger:
        where = ("--cloud", cloud.url, "--secret-file", secret)
        code, found = await findings(bundles, *where, "--threads", 1)
        assert code == 1
        assert "start both sides with the same secret" in found["problems"][0]
        assert "not-this-one" not in json.dumps(found)

        code, found = await findings(bundles, "--cloud", stranger.url, "--threads", 1)
        assert code == 1
        assert "of one and the same split" in found["problems"][0]

    code, text = await doctor(bundles, "--cloud", nobody, "--threads", 1)
    assert code == 1
    assert "\nproblem " in text


async def test_a_cloud_that_stops_is_a_finding(bundles):
    async with serve_cloud(cloud_config(bundles)) as cloud:
        await cloud.drain(0)
        code, found = await findings(bundles, "--cloud", cloud.url, "--threads", 1)
    assert code == 1
    assert "about to stop" in found["problems"][0]

"""Starting `hat device`: what is printed, what fails in one line, and a cloud that comes later."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from urllib.parse import urlsplit

import aiohttp
import pytest

from device_runtime.config import DeviceConfig
from device_runtime.fetching.keeping import Keeper
from device_runtime.main import start_lines
from device_runtime.server import serve_device
from process.errors import UserError
from tests.support.stack import cloud_config, split_for_serving
from tests.support.tokenizers import MODEL_FOLDER
from tests.support.world import REAL, serve_cloud

STORY = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return split_for_serving(MODEL_FOLDER, tmp_path_factory.mktemp("bundles") / "out", 1)


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def device_config(bundles, cloud_port, **settings):
    cloud = f"ws://127.0.0.1:{cloud_port}"
    return DeviceConfig(bundle=bundles, port=0, cloud=cloud, threads=1, **settings)


async def fails_to_start(config):
    with pytest.raises(UserError) as caught:
        async with serve_device(config, REAL):
            pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_what_cannot_start_says_why_in_one_line(bundles, free_port, tmp_path):
    config = device_config(bundles, free_port)

    missing = replace(config, bundle=tmp_path)
    assert "no device bundle" in await fails_to_start(missing)
    assert "cloud bundle" in await fails_to_start(replace(config, bundle=bundles / "cloud"))
    assert "int4" in await fails_to_start(replace(config, weights="int4"))
    assert "http://cloud" in await fails_to_start(replace(config, cloud="http://cloud"))
    assert "cannot listen on" in await fails_to_start(replace(config, host="192.0.2.1"))
    wrong_name = replace(config, allowed_hosts=("http://hat.example",))
    assert "allowed_hosts: expected a name" in await fails_to_start(wrong_name)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = await fails_to_start(replace(config, port=port))
        assert message == f"cannot listen on 127.0.0.1:{port}: address already in use"


async def test_a_bundle_without_its_tokenizer_cannot_start(bundles, free_port, tmp_path):
    folder = tmp_path / "device"
    folder.mkdir()
    for path in (bundles / "device").iterdir():
        if path.name != "tokenizer.json":
            (folder / path.name).write_bytes(path.read_bytes())
    message = await fails_to_start(device_config(folder, free_port))
    assert "tokenizer.json" in message


async def test_names_are_judged_where_only_this_machine_can_ask_or_where_some_are_given(
    bundles, free_port
):
    async def status(config):
        async with (
            serve_device(config, REAL) as server,
            aiohttp.ClientSession(server.url, headers={"Host": "evil.example"}) as http,
            http.get("/health") as response,
        ):
            return response.status

    config = device_config(bundles, free_port)
    assert await status(config) == 403
    assert await status(replace(config, allowed_hosts=("*.example",))) == 200
    everywhere = replace(config, host="0.0.0.0")
    assert await status(everywhere) == 200
    assert await status(replace(everywhere, allowed_hosts=("hat.example",))) == 403


async def test_on_all_addresses_the_first_lines_name_some_to_connect_to(bundles, free_port):
    config = device_config(bundles, free_port, host="0.0.0.0")
    async with serve_device(config, REAL) as device, aiohttp.ClientSession() as http:
        lines = start_lines(config, device)
        assert "0.0.0.0" not in lines
        assert f"curl http://127.0.0.1:{urlsplit(device.url).port}/v1/" in lines
        async with http.get(device.url + "/health") as response:
            assert response.status == 200
        line = start_lines(config, replace(device, far_url="http://203.0.113.9:80"))
    assert f"endpoint  {device.url}/v1; from other machines http://203.0.113.9:80/v1\n" in line


async def test_it_serves_while_the_cloud_is_away_and_recovers_when_it_comes(bundles, free_port):
    async with (
        serve_device(device_config(bundles, free_port), REAL) as device,
        aiohttp.ClientSession(device.url) as http,
    ):
        for method, path in (("GET", "/ready"), ("POST", "/v1/completions")):
            async with http.request(method, path, json=STORY) as response:
                error = (await response.json())["error"]
            assert (response.status, error["code"]) == (503, "cloud_unavailable")
            assert str(free_port) in error["message"]
            assert int(response.headers["Retry-After"]) >= 1
        async with http.get("/v1/models") as response:
            assert response.status == 200
        async with serve_cloud(replace(cloud_config(bundles), port=free_port)):
            await device.link.connected()
            async with http.post("/v1/completions", json=STORY) as response:
                assert response.status == 200
                text = (await response.json())["choices"][0]["text"]
    assert text == ", there was a little girl named Lily. She"


async def test_the_models_own_sampling_is_used_and_named(bundles, free_port, tmp_path):
    own = tmp_path / "model"
    shutil.copytree(MODEL_FOLDER, own)
    values = {"eos_token_id": [1, 2], "temperature": 0.6, "top_k": 1}
    (own / "generation_config.json").write_text(json.dumps(values))
    split = split_for_serving(own, tmp_path / "out", 1)
    config = device_config(split, free_port)

    async with serve_device(config, REAL) as device:
        taken = start_lines(config, device)
    async with serve_device(replace(config, generation_config="none"), REAL) as device:
        none = start_lines(config, device)
    wrong = await fails_to_start(replace(config, sampling_defaults=("top_p=7",)))
    assert "sampling  temperature 0.6, top_k 1 (generation_config.json)" in taken
    assert "sampling  OpenAI's defaults" in none
    assert "sampling_defaults: expected" in wrong


async def test_the_first_lines_name_everything_and_not_the_key(bundles, free_port):
    config = device_config(
        bundles, free_port, api_key="hush", served_model_name=("stories", "other")
    )

    async with serve_device(config, REAL) as device:
        url, lines = device.url, start_lines(config, device)
    assert "model     stories: 1 of 5 layers here, context 512 tokens" in lines
    assert "engine    onnx, float32 weights; drafter suffix" in lines
    assert f"cloud     ws://127.0.0.1:{free_port}: not connected (" in lines
    assert f"endpoint  {url}/v1" in lines
    assert f"curl {url}/v1/completions" in lines
    assert "$HAT_API_KEY" in lines
    assert "sampling  OpenAI's defaults (temperature 1)" in lines
    assert "drafting  no adapter for this model: a token costs about a round trip" in lines
    assert f"hat adapter train {bundles} --text FILE" in lines
    assert "hush" not in lines


def test_the_process_announces_itself_answers_the_printed_request_and_ends_at_a_signal(
    bundles, free_port, tmp_path
):
    """Its bundle was fetched once and is named by its path: no other program removes it."""
    fetched = tmp_path / f"stories-{1:012x}-{1:012x}"
    shutil.copytree(bundles / "device", fetched / "device")
    command = [sys.executable, "-m", "hat", "device", str(fetched), "--threads", "1"]
    command += ["--port", str(free_port), "--cloud", "ws://127.0.0.1:9", "--log-level", "debug"]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        assert Keeper(tmp_path, 0).remove_old() == []
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0
    assert Keeper(tmp_path, 0).remove_old() == [fetched]
    assert "objects are left out of garbage collection" in log
    assert lines[3] == f"endpoint  http://127.0.0.1:{free_port}/v1\n"
    body = lines[4].split(" -d ")[1].strip().strip("'")
    assert json.loads(body) == {"prompt": "Once upon a time", "max_tokens": 60}

"""Two names on one cloud, over real sockets: keys, revocation, quotas up to the HTTP client."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from click.testing import CliRunner

from hat.cli import hat
from tests.support.cloud_client import (
    QUICK,
    assert_serves,
    connected,
    hello_for,
    http_get,
    random_rows,
    session_key,
    states,
    until,
    welcomed,
)
from tests.support.fake_middle_engine import deep_rows
from tests.support.reference import STORIES
from tests.support.stack import cloud_config, connected_device, split_for_serving
from tests.support.world import serve_cloud
from wire.errors import FaultCode
from wire.messages import Ability, Fault, Open, SessionId

REVOKED_WITHIN_S = 2.0


class Register:
    """A tokens file, changed as a user does."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tokens.json"

    def run(self, *arguments: str) -> str:
        result = CliRunner().invoke(hat, ["token", *arguments, "--tokens-file", str(self.path)])
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    def add(self, name: str, *more: str) -> str:
        """A new name's token."""
        return self.run("add", name, *more)


@pytest.fixture
def register(tmp_path):
    return Register(tmp_path)


def hello_of(bundle, token):
    hello = hello_for(bundle.manifest, token)
    return replace(hello, codecs=hello.codecs | 1 << Ability.QUOTAS)


async def test_the_key_of_another_names_session_is_refused(config, bundle, engine, register):
    anna, bert = register.add("anna"), register.add("bert")
    rows = random_rows(13, seed=1)
    settings = replace(config, tokens_file=register.path)
    async with serve_cloud(settings, engine.load) as server:
        async with (
            welcomed(server.link_url, hello_of(bundle, anna)) as hers,
            welcomed(server.link_url, hello_of(bundle, bert)) as his,
        ):
            await hers.open(1, session_key(7), 64)
            await hers.run(1, 0, rows[:12])
            assert (await his.open(1, session_key(7), 64)).cached_tokens == 0
            await his.send(states(1, 12, rows[12:]))
            await his.expect_fault(FaultCode.POSITION_MISMATCH, session=1)
            np.testing.assert_array_equal(await hers.run(1, 12, rows[12:]), deep_rows(rows)[12:])
        async with welcomed(server.link_url, hello_of(bundle, anna)) as again:
            assert (await again.open(1, session_key(7), 64)).cached_tokens == 13


async def test_a_revocation_ends_what_a_name_has_within_two_seconds(
    config, bundle, engine, register, caplog
):
    caplog.set_level(logging.INFO)
    anna, bert = register.add("anna"), register.add("bert")
    settings = replace(config, tokens_file=register.path)
    async with (
        serve_cloud(settings, engine.load) as server,
        welcomed(server.link_url, hello_of(bundle, anna)) as first,
        welcomed(server.link_url, hello_of(bundle, anna)) as second,
        welcomed(server.link_url, hello_of(bundle, bert)) as other,
    ):
        await first.open(1, session_key(1), 64)
        await other.open(1, session_key(2), 64)
        register.run("revoke", "anna")
        begun_s = asyncio.get_running_loop().time()
        for client in (first, second):
            fault = await client.expect_fault(FaultCode.BAD_CREDENTIAL)
            assert fault.message == "anna was revoked"
        assert asyncio.get_running_loop().time() - begun_s < REVOKED_WITHIN_S
        assert server.daemon.figures().num_sessions == 1
        async with connected(server.link_url) as late:
            await late.send(hello_of(bundle, anna))
            await late.expect_fault(FaultCode.BAD_CREDENTIAL)
        await assert_serves(other, 2, seed=2)
        bert_again = register.add("carl")
        await until(lambda: "names in it: 3" in caplog.text)
        async with welcomed(server.link_url, hello_of(bundle, bert_again)):
            pass
        page = (await http_get(server.metrics_url + "/metrics"))[1]
    assert 'hat_cloud_name_rows_total{name="bert"} 12.0' in page
    assert "a device of anna at 127.0.0.1" in caplog.text
    for token in (anna, bert, bert_again):
        assert token not in caplog.text + page + register.path.read_text()


async def test_a_file_that_is_none_or_gone_lets_nobody_new_in(
    config, bundle, engine, register, caplog
):
    anna = register.add("anna")
    settings = replace(config, tokens_file=register.path)
    async with serve_cloud(settings, engine.load, QUICK) as server:
        async with welcomed(server.link_url, hello_of(bundle, anna)) as client:
            whole = register.path.read_text()
            register.path.write_text(whole[:40])
            await until(lambda: "names stay as they were" in caplog.text)
            await assert_serves(client, 1, seed=1)
            register.path.unlink()
            await client.expect_fault(FaultCode.BAD_CREDENTIAL)
        register.path.write_text(whole)
        hello = hello_of(bundle, anna)
        await until(lambda: server.daemon._core.people.who(hello.credential, None, 0.0) is not None)
        async with welcomed(server.link_url, hello):
            pass


async def test_wrong_tokens_wait_and_right_ones_do_not(config, bundle, engine, register):
    anna = register.add("anna")
    settings = replace(config, tokens_file=register.path)
    async with serve_cloud(settings, engine.load) as server:
        for _ in range(3):
            async with connected(server.link_url) as guess:
                await guess.send(hello_of(bundle, "hat_a-guess"))
                await guess.expect_fault(FaultCode.BAD_CREDENTIAL)
        delays = server.reception.wrong_secrets
        assert delays.delay_s("127.0.0.1", asyncio.get_running_loop().time()) == 0.4
        begun_s = asyncio.get_running_loop().time()
        async with welcomed(server.link_url, hello_of(bundle, anna)):
            assert asyncio.get_running_loop().time() - begun_s < 0.3


async def test_connections_beyond_the_quota_wait_ever_longer_for_their_answer(
    config, bundle, engine, register
):
    anna, bert = register.add("anna", "--quota", "connections=1"), register.add("bert")
    settings = replace(config, tokens_file=register.path)
    async with (
        serve_cloud(settings, engine.load) as server,
        welcomed(server.link_url, hello_of(bundle, anna)),
    ):
        for _ in range(2):
            async with connected(server.link_url) as second:
                await second.send(hello_of(bundle, anna))
                fault = await second.expect_fault(FaultCode.QUOTA)
        assert fault.message == "the quota of anna is 1 connection at once; there is 1"
        delays = server.reception.full_names
        assert delays.delay_s("@anna", asyncio.get_running_loop().time()) == 0.2
        async with welcomed(server.link_url, hello_of(bundle, bert)):
            pass


async def test_a_quota_of_sessions_is_told(config, bundle, engine, register, caplog):
    caplog.set_level(logging.INFO)
    anna = register.add("anna", "--quota", "sessions=1,kv-tokens=1k")
    settings = replace(config, tokens_file=register.path)
    async with (
        serve_cloud(settings, engine.load) as server,
        welcomed(server.link_url, hello_of(bundle, anna)) as client,
    ):
        await client.open(1, session_key(1), 64)
        await client.run(1, 0, random_rows(2))
        await client.send(Open(SessionId(2), session_key(2), 64))
        fault = await client.expect_fault(FaultCode.QUOTA, session=2)
        assert isinstance(fault, Fault)
        assert fault.message == "the quota of anna is 1 session at once; there is 1"
        assert fault.retry_after_s > 0
        page = (await http_get(server.metrics_url + "/metrics"))[1]
    assert f"connection 1 of anna at 127.0.0.1, session 2: QUOTA ({fault.message})" in caplog.text
    assert 'hat_cloud_faults_total{code="QUOTA"} 1.0' in page


@pytest.mark.parametrize(
    ("tokens_per_day", "num_served"), [(40, 1), (12, 0)], ids=["before it begins", "in mid-answer"]
)
async def test_the_http_client_is_told_which_quota_and_when_to_come_back(
    tmp_path, register, tokens_per_day, num_served
):
    """At once: nobody is kept waiting for the next day."""
    bundles = split_for_serving(STORIES, tmp_path / "stories", 1)
    token = register.add("anna", "--quota", f"tokens_per_day={tokens_per_day}")
    cloud = cloud_config(bundles / "cloud", {"tokens_file": register.path})
    body = {"model": "m", "prompt": "Once upon a time", "max_tokens": 16, "temperature": 0}
    device = {"secret": token, "drafter": "none", "served_model_name": ("m",)}
    statuses = []
    async with (
        serve_cloud(cloud) as server,
        connected_device(bundles / "device", server.url, device) as device_server,
        aiohttp.ClientSession(device_server.url) as http,
    ):
        while 429 not in statuses:
            assert len(statuses) < 4
            async with asyncio.timeout(20), http.post("/v1/completions", json=body) as response:
                answer = await response.json()
                statuses.append(response.status)
    assert statuses.count(200) >= num_served
    assert set(statuses) <= {200, 429}
    assert answer["error"]["code"] == "quota_exceeded"
    assert f"the quota of anna is {tokens_per_day} tokens a day" in answer["error"]["message"]
    assert 1 <= int(response.headers["Retry-After"]) <= 86_400


async def test_a_request_that_no_quota_of_its_name_will_ever_allow_is_not_to_be_sent_again(
    tmp_path, register
):
    """Clients and agents wait and ask again for as long as they are told after how long."""
    bundles = split_for_serving(STORIES, tmp_path / "stories", 1)
    token = register.add("anna", "--quota", "kv_tokens=64")
    cloud = cloud_config(bundles / "cloud", {"tokens_file": register.path})
    body = {"model": "m", "prompt": "Once upon a time", "max_tokens": 200, "temperature": 0}
    device = {"secret": token, "drafter": "none", "served_model_name": ("m",)}
    async with (
        serve_cloud(cloud) as server,
        connected_device(bundles / "device", server.url, device) as device_server,
        aiohttp.ClientSession(device_server.url) as http,
    ):
        asked = {"completions": body, "responses": {"model": "m", "input": "Once upon a time"}}
        for path, sent in asked.items():
            async with http.post(f"/v1/{path}", json=sent) as response:
                error = (await response.json())["error"]
            assert (response.status, error["code"]) == (429, "quota_exceeded")
            assert "the quota of anna is 64 tokens of KV cache at once" in error["message"]
            assert response.headers["x-should-retry"] == "false"
            assert "Retry-After" not in response.headers

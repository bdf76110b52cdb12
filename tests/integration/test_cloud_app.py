"""The daemon over real sockets: rows, handshakes, TLS, metrics, and how it starts and stops."""

import asyncio
import shutil
import ssl
import threading
from dataclasses import replace

import aiohttp
import numpy as np
import pytest

from cloud_server.config import CloudConfig
from cloud_server.engines.loading import LoadedEngine
from cloud_server.server import CloudServer
from process.errors import StartError
from submodels.bundle.bundle import Bundle
from submodels.bundle.layer_weights import Placed
from submodels.bundle.layers import LayerCache, load_layers, run_layers
from submodels.tensors.tensor_layout import Part
from tests.support.cloud_client import (
    HIDDEN,
    QUICK,
    Rows,
    assert_serves,
    connected,
    hello_for,
    http_get,
    random_rows,
    rows_of,
    session_key,
    states,
    until,
    welcomed,
)
from tests.support.fake_middle_engine import FakeMiddleEngine, deep_rows
from tests.support.guarded import make_certificate
from tests.support.world import REAL, serve_cloud
from wire.errors import FaultCode
from wire.handshake import LINK_PATH
from wire.messages import Close, Codec, Dtype, Open, SessionId, Want


async def test_deep_rows_over_sockets_equal_the_reference_layers(config, bundle):
    layers = load_layers(bundle, Part.MIDDLE, Placed())

    def reference(rows: Rows) -> Rows:
        import torch

        with torch.inference_mode():
            caches = [LayerCache() for _ in layers]
            return run_layers(layers, torch.from_numpy(rows), 0, caches).numpy()

    async def device(server: CloudServer, seed: int) -> None:
        rows = random_rows(60, seed)
        expected = reference(rows)
        async with welcomed(server.link_url, hello_for(bundle.manifest)) as client:
            await client.open(1, session_key(seed), 64)
            for start in range(0, 60, 20):
                deep = await client.run(1, start, rows[start : start + 20])
                np.testing.assert_allclose(deep, expected[start : start + 20], atol=2e-5)
            await client.run(1, 40, random_rows(5, seed + 100))
            deep = await client.run(1, 40, rows[40:], Want.LAST)
            np.testing.assert_allclose(deep, expected[-1:], atol=2e-5)

    async with serve_cloud(config) as server:
        await asyncio.gather(*(device(server, seed) for seed in range(6)))


async def test_a_device_that_fits_is_welcomed_with_the_limits(config, bundle, engine):
    async with (
        serve_cloud(replace(config, secret="s3cret"), engine.load) as server,
        connected(server.link_url) as client,
    ):
        welcome = await client.shake_hands(hello_for(bundle.manifest, "s3cret"))
        assert (welcome.version, welcome.dtype) == (1, Dtype.FP32)
        assert welcome.codecs == 1 << Codec.RAW
        assert welcome.max_context_tokens == 512
        assert welcome.credit_limit_tokens >= 2 * welcome.max_frame_tokens > 0
        assert welcome.session_ttl_s == 30.0


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"credential": b"guess"}, FaultCode.BAD_CREDENTIAL),
        ({"credential": b""}, FaultCode.BAD_CREDENTIAL),
        ({"fingerprint": bytes(32)}, FaultCode.FINGERPRINT_MISMATCH),
        ({"min_version": 7, "max_version": 9}, FaultCode.UNSUPPORTED_VERSION),
        ({"first_layer": 2}, FaultCode.SHAPE_MISMATCH),
        ({"num_layers": 3}, FaultCode.SHAPE_MISMATCH),
        ({"hidden_size": 65}, FaultCode.SHAPE_MISMATCH),
        ({"dtypes": 1 << Dtype.BF16}, FaultCode.SHAPE_MISMATCH),
        ({"codecs": 1 << 15}, FaultCode.SHAPE_MISMATCH),
    ],
)
async def test_a_device_that_does_not_fit_is_told_why_and_closed(
    config, bundle, engine, change, code
):
    async with (
        serve_cloud(replace(config, secret="s3cret"), engine.load) as server,
        connected(server.link_url) as client,
    ):
        await client.send(replace(hello_for(bundle.manifest, "s3cret"), **change))
        fault = await client.expect_fault(code)
        assert "s3cret" not in fault.message


async def test_the_first_frame_must_be_a_hello(config, engine):
    async with (
        serve_cloud(config, engine.load) as server,
        connected(server.link_url) as client,
    ):
        await client.send(Open(SessionId(1), session_key(1), 64))
        await client.expect_fault(FaultCode.BAD_FRAME)
        assert engine.num_sequences == 0


async def test_a_cloud_takes_only_so_many_connections(config, bundle, engine):
    async with (
        serve_cloud(replace(config, max_connections=1), engine.load) as server,
        welcomed(server.link_url, hello_for(bundle.manifest)) as first,
    ):
        async with connected(server.link_url) as second:
            await second.send(hello_for(bundle.manifest))
            fault = await second.expect_fault(FaultCode.TOO_MANY_SESSIONS)
            assert fault.retry_after_s > 0
        await assert_serves(first, 1, seed=1)


async def test_devices_connect_over_tls(config, bundle, engine, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    certificate, key = make_certificate(tmp_path)
    secure = replace(config, tls_certificate=certificate, tls_key=key)

    async with serve_cloud(secure, engine.load) as server:
        assert server.url.startswith("wss://127.0.0.1:")
        trust = ssl.create_default_context(cafile=certificate)
        async with connected(server.link_url, trust) as client:
            await client.shake_hands(hello_for(bundle.manifest))
            await assert_serves(client, 1, seed=1)
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            async with connected(server.link_url):
                pass


async def test_a_draining_cloud_finishes_what_runs_and_takes_nothing_new(config, bundle, engine):
    async with (
        serve_cloud(config, engine.load, QUICK) as server,
        welcomed(server.link_url, hello_for(bundle.manifest)) as client,
    ):
        await client.open(1, session_key(1), 64)
        engine.may_step.clear()
        rows = random_rows(4)
        await client.send(states(1, 0, rows))
        draining = asyncio.create_task(server.drain(20))
        await until(lambda: server.daemon.is_draining)
        draining_page = (503, "draining: no new sessions")
        assert await http_get(server.http_url + "/ready") == draining_page
        assert (await http_get(server.http_url + "/health"))[0] == 200
        # A balancer passes a new device on to another replica.
        assert await http_get(server.http_url + LINK_PATH) == draining_page
        await client.send(Open(SessionId(2), session_key(2), 64))
        await client.expect_fault(FaultCode.DRAINING, session=2)
        engine.may_step.set()
        deep = rows_of(await client.receive(), HIDDEN)
        np.testing.assert_array_equal(deep, deep_rows(rows))
        assert not draining.done()
        await client.send(Close(SessionId(1)))
        await draining


async def test_devices_are_told_when_the_cloud_stops(config, bundle, engine):
    async with (
        serve_cloud(config, engine.load) as server,
        welcomed(server.link_url, hello_for(bundle.manifest)) as client,
    ):
        await client.open(1, session_key(1), 64)
        await server.drain(0.05)
        closing = asyncio.create_task(server.close())
        await client.expect_fault(FaultCode.DRAINING)
        assert await closing


async def test_a_cloud_that_loads_is_alive_but_not_ready(config):
    may_load = threading.Event()

    def load(bundle: Bundle, config: CloudConfig) -> LoadedEngine:
        may_load.wait()
        return FakeMiddleEngine().load(bundle, config)

    server = CloudServer(config, load, REAL.clock)
    await server.open()
    loading = asyncio.create_task(server.load())
    try:
        assert (await http_get(server.http_url + "/health"))[0] == 200
        assert await http_get(server.http_url + "/ready") == (503, "loading the model")
        assert (await http_get(server.metrics_url + "/metrics"))[0] == 200
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with connected(server.link_url):
                pass
        assert refused.value.status == 503
        may_load.set()
        await loading
        assert await http_get(server.http_url + "/ready") == (200, "ready")
    finally:
        may_load.set()
        await server.close()


async def test_an_engine_that_cannot_load_ends_the_start(config):
    def load(bundle: Bundle, config: CloudConfig) -> LoadedEngine:
        raise StartError("no such GPU")

    with pytest.raises(StartError, match="no such GPU"):
        async with serve_cloud(config, load):
            pass


async def test_metrics_count_what_happened_and_tell_nothing_else(config, bundle, engine):
    async with (
        serve_cloud(config, engine.load) as server,
        welcomed(server.link_url, hello_for(bundle.manifest)) as client,
    ):
        await client.open(1, session_key(1), 128)
        await client.send(states(1, 0, random_rows(40), Want.NONE))
        await client.receive()
        await client.run(1, 40, random_rows(5), Want.ALL)
        await client.send(states(9, 0, random_rows(1)))
        await client.expect_fault(FaultCode.UNKNOWN_SESSION, session=9)
        page = (await http_get(server.metrics_url + "/metrics"))[1]
    lines = page.splitlines()
    for line in (
        "hat_cloud_num_requests_running 0.0",
        "hat_cloud_num_requests_waiting 0.0",
        f"hat_cloud_kv_cache_usage_perc {128 / 4096}",
        "hat_cloud_kv_cache_capacity_tokens 4096.0",
        "hat_cloud_connections 1.0",
        "hat_cloud_sessions 1.0",
        "hat_cloud_host_sessions 0.0",
        "hat_cloud_host_cache_tokens 0.0",
        f"hat_cloud_host_cache_capacity_tokens {256 * 512}.0",  # as many as could ever be used
        "hat_cloud_host_saves_total 0.0",
        "hat_cloud_prefill_tokens_total 40.0",
        "hat_cloud_verify_tokens_total 5.0",
        'hat_cloud_faults_total{code="UNKNOWN_SESSION"} 1.0',
        'hat_cloud_faults_total{code="INTERNAL"} 0.0',
        "hat_cloud_step_seconds_count 3.0",  # an engine that is not known yet gets 16 rows first
        "hat_cloud_batch_tokens_sum 45.0",
    ):
        assert line in lines
    own = [line for line in lines if line.startswith("hat_cloud_")]
    labels = {line.split("{")[1].split("=")[0] for line in own if "{" in line}
    assert labels == {"le", "code", "name"}


async def test_figures_are_for_their_own_port_alone(config, engine):
    async with serve_cloud(config, engine.load) as server:
        assert (await http_get(server.http_url + "/metrics"))[0] == 404
        assert server.metrics_url.startswith("http://127.0.0.1:")
        assert (await http_get(server.metrics_url + "/metrics"))[0] == 200
        assert await http_get(server.metrics_url + "/ready") == (200, "ready")
        assert await http_get(server.metrics_url + "/health") == (200, "ok")
        assert (await http_get(server.metrics_url + LINK_PATH))[0] == 404


async def test_figures_that_nobody_asked_for_give_way_and_those_asked_for_do_not(
    config, engine, caplog, monkeypatch
):
    async with serve_cloud(config, engine.load) as server:
        port = int(server.metrics_url.rpartition(":")[2])
        asked = replace(config, metrics_port=port)
        with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{port} for /metrics"):
            await serve_cloud(asked, engine.load).__aenter__()
        monkeypatch.setattr("cloud_server.server.metrics_port", lambda _: port)
        async with serve_cloud(config, engine.load) as other:
            assert other.metrics_url is None
            assert (await http_get(other.http_url + "/ready"))[0] == 200
    assert f"cannot listen on 127.0.0.1:{port} for /metrics" in caplog.text


async def test_a_taken_port_is_a_clear_error(config, engine):
    async with serve_cloud(config, engine.load) as server:
        port = int(server.url.rsplit(":", 1)[1])
        with pytest.raises(StartError, match=r"cannot listen on .*address already in use"):
            await serve_cloud(replace(config, port=port), engine.load).__aenter__()

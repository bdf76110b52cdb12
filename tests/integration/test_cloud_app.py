"""The daemon over real sockets: handshakes, refusals, sessions, and everyone else unharmed."""

import asyncio
import contextlib
import shutil
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from cloud_server.config import CloudConfig
from cloud_server.daemon import Patience
from cloud_server.errors import ConfigError
from cloud_server.loaded_engine import LoadedEngine
from cloud_server.server import CloudServer, serve_cloud
from submodels.bundle import Bundle, load_bundle
from submodels.layers import LayerCache, Placed, load_layers, run_layers
from submodels.split import SplitOptions, split_checkpoint
from submodels.tensor_layout import Part
from tests.support.cloud_client import (
    CloudClient,
    Rows,
    connected,
    hello_for,
    http_get,
    rows_of,
    states,
    until,
    welcomed,
)
from tests.support.fake_middle_engine import POISON, FakeMiddleEngine, deep_rows
from wire.codec import encode
from wire.errors import FaultCode
from wire.messages import Close, Codec, Dtype, Open, SessionId, Want

MODEL = Path(__file__).parents[2] / "models" / "stories260k"
HIDDEN = 64
QUICK = Patience(tick_s=0.02, stall_timeout_s=0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle")
    split_checkpoint(SplitOptions(str(MODEL), out, 1, onnx_weights=()))
    return out


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return load_bundle(folder, "cloud")


@pytest.fixture
def config(folder: Path) -> CloudConfig:
    return CloudConfig(folder, port=0, threads=1, session_ttl_s=30.0)


@pytest.fixture
def engine() -> Iterator[FakeMiddleEngine]:
    engine = FakeMiddleEngine()
    yield engine
    engine.may_step.set()


def _rows(num_rows: int, seed: int = 0) -> Rows:
    return np.random.default_rng(seed).standard_normal((num_rows, HIDDEN)).astype(np.float32)


def _key(number: int) -> bytes:
    return number.to_bytes(16, "little")


async def _assert_serves(client: CloudClient, number: int, seed: int) -> None:
    """A new session of an open connection gets the rows it should."""
    rows = _rows(12, seed)
    await client.open(number, _key(1000 + number), 64)
    await client.send(states(number, 0, rows[:8], Want.NONE))
    assert rows_of(await client.receive(), HIDDEN).shape == (0, HIDDEN)
    np.testing.assert_array_equal(await client.run(number, 8, rows[8:]), deep_rows(rows)[8:])


# The real engine.


def test_deep_rows_over_sockets_equal_the_reference_layers(config, bundle):
    layers = load_layers(bundle, Part.MIDDLE, Placed())

    def reference(rows: Rows) -> Rows:
        import torch

        with torch.inference_mode():
            caches = [LayerCache() for _ in layers]
            return run_layers(layers, torch.from_numpy(rows), 0, caches).numpy()

    async def device(server: CloudServer, seed: int) -> None:
        rows = _rows(60, seed)
        expected = reference(rows)
        async with welcomed(server.link_url, hello_for(bundle.manifest)) as client:
            await client.open(1, _key(seed), 64)
            for start in range(0, 60, 20):
                deep = await client.run(1, start, rows[start : start + 20])
                np.testing.assert_allclose(deep, expected[start : start + 20], atol=2e-5)
            await client.run(1, 40, _rows(5, seed + 100))
            deep = await client.run(1, 40, rows[40:], Want.LAST)
            np.testing.assert_allclose(deep, expected[-1:], atol=2e-5)

    async def main() -> None:
        async with serve_cloud(config) as server:
            await asyncio.gather(*(device(server, seed) for seed in range(6)))

    asyncio.run(main())


# Handshake.


def test_a_device_that_fits_is_welcomed_with_the_limits(config, bundle, engine):
    async def main() -> None:
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

    asyncio.run(main())


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
def test_a_device_that_does_not_fit_is_told_why_and_closed(config, bundle, engine, change, code):
    async def main() -> None:
        async with (
            serve_cloud(replace(config, secret="s3cret"), engine.load) as server,
            connected(server.link_url) as client,
        ):
            await client.send(replace(hello_for(bundle.manifest, "s3cret"), **change))
            fault = await client.expect_fault(code)
            assert "s3cret" not in fault.message

    asyncio.run(main())


def test_the_first_frame_must_be_a_hello(config, engine):
    async def main() -> None:
        async with (
            serve_cloud(config, engine.load) as server,
            connected(server.link_url) as client,
        ):
            await client.send(Open(SessionId(1), _key(1), 64))
            await client.expect_fault(FaultCode.BAD_FRAME)
            assert engine.num_sequences == 0

    asyncio.run(main())


def test_a_cloud_takes_only_so_many_connections(config, bundle, engine):
    async def main() -> None:
        async with (
            serve_cloud(replace(config, max_connections=1), engine.load) as server,
            welcomed(server.link_url, hello_for(bundle.manifest)) as first,
        ):
            async with connected(server.link_url) as second:
                fault = await second.expect_fault(FaultCode.TOO_MANY_SESSIONS)
                assert fault.retry_after_s > 0
            await _assert_serves(first, 1, seed=1)

    asyncio.run(main())


# Bad frames, and the others.


BAD_FRAMES = {
    "empty": b"",
    "unknown type": b"\xff" + bytes(40),
    "cut off": encode(Open(SessionId(2), _key(2), 64))[:-3],
    "too long": encode(Close(SessionId(1))) + b"!",
    "a message of the cloud": encode(Close(SessionId(1)))[:0] + b"\x04" + bytes(8),
    "a payload of another length": encode(states(1, 0, _rows(2)))[:-8],
    "rows of another width": encode(states(1, 0, np.zeros((1, 32), np.float32))),
    "more rows than allowed": encode(states(1, 0, np.zeros((600, HIDDEN), np.float32))),
    "far more than is ever read": bytes(1 << 20),
    "text": "hello",
}


@pytest.mark.parametrize("why", BAD_FRAMES)
def test_a_bad_frame_ends_its_connection_alone(config, bundle, engine, why):
    async def main() -> None:
        async with serve_cloud(config, engine.load) as server:
            hello = hello_for(bundle.manifest)
            async with (
                welcomed(server.link_url, hello) as healthy,
                welcomed(server.link_url, hello) as bad,
            ):
                await _assert_serves(healthy, 1, seed=1)
                await bad.open(1, _key(77), 64)
                frame = BAD_FRAMES[why]
                if isinstance(frame, str):
                    await bad.socket.send_str(frame)
                else:
                    await bad.socket.send_bytes(frame)
                if why == "far more than is ever read":
                    await bad.expect_closed()
                    assert bad.socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
                else:
                    fault = await bad.receive()
                    assert fault.code in (FaultCode.BAD_FRAME, FaultCode.SHAPE_MISMATCH)
                    assert fault.session == 0
                    await bad.expect_closed()
                await _assert_serves(healthy, 2, seed=2)
                np.testing.assert_array_equal(
                    await healthy.run(1, 12, _rows(1, seed=3)),
                    deep_rows(np.concatenate([_rows(12, seed=1), _rows(1, seed=3)]))[12:],
                )

    asyncio.run(main())


def test_a_broken_websocket_leaves_the_others_alone(config, bundle, engine):
    async def main() -> None:
        async with serve_cloud(config, engine.load) as server:
            address = server.url.removeprefix("ws://").split(":")
            for garbage in (b"\x00" * 64, b"GET /v1/link HTTP/1.1\r\nUpgrade: nonsense\r\n\r\n"):
                reader, writer = await asyncio.open_connection(address[0], int(address[1]))
                writer.write(garbage)
                assert b"101" not in await reader.read(1024)
                writer.close()
            async with welcomed(server.link_url, hello_for(bundle.manifest)) as client:
                await _assert_serves(client, 1, seed=1)

    asyncio.run(main())


def test_rows_that_are_not_finite_end_their_session_alone(config, bundle, engine):
    async def main() -> None:
        async with (
            serve_cloud(config, engine.load) as server,
            welcomed(server.link_url, hello_for(bundle.manifest)) as client,
        ):
            await client.open(1, _key(1), 64)
            rows = _rows(4)
            rows[2, 7] = np.nan
            await client.send(states(1, 0, rows))
            await client.expect_fault(FaultCode.BAD_FRAME, session=1)
            await _assert_serves(client, 2, seed=2)
            await until(lambda: engine.num_sequences == 1)

    asyncio.run(main())


# A failing engine.


def test_a_failing_step_ends_the_sessions_in_it_and_no_others(config, bundle, engine):
    async def main() -> None:
        async with (
            serve_cloud(config, engine.load) as server,
            welcomed(server.link_url, hello_for(bundle.manifest)) as client,
        ):
            await _assert_serves(client, 1, seed=1)
            await client.open(2, _key(2), 64)
            poison = _rows(2)
            poison[0, 0] = POISON
            await client.send(states(2, 0, poison))
            fault = await client.expect_fault(FaultCode.INTERNAL, session=2)
            assert fault.retry_after_s > 0
            assert "planted" not in fault.message
            await _assert_serves(client, 3, seed=3)
            await until(lambda: engine.num_sequences == 2)
            assert (await http_get(server.http_url + "/health"))[0] == 200

    asyncio.run(main())


def test_an_engine_that_fails_every_step_is_not_ready_until_it_works_again(config, bundle, engine):
    async def main() -> None:
        async with (
            serve_cloud(config, engine.load) as server,
            welcomed(server.link_url, hello_for(bundle.manifest)) as client,
        ):
            engine.fails_always = True
            for number in (1, 2, 3):
                await client.open(number, _key(number), 64)
                await client.send(states(number, 0, _rows(1)))
                await client.expect_fault(FaultCode.INTERNAL, session=number)
            for path in ("/health", "/ready"):
                assert await http_get(server.http_url + path) == (
                    503,
                    "the engine fails every step",
                )
            engine.fails_always = False
            await _assert_serves(client, 4, seed=4)
            assert (await http_get(server.http_url + "/ready"))[0] == 200

    asyncio.run(main())


def test_a_cloud_whose_engine_has_no_room_says_capacity(config, bundle):
    engine = FakeMiddleEngine(capacity=100)

    async def main() -> None:
        async with (
            serve_cloud(config, engine.load) as server,
            welcomed(server.link_url, hello_for(bundle.manifest)) as client,
        ):
            await client.open(1, _key(1), 80)
            await client.send(Open(SessionId(2), _key(2), 80))
            fault = await client.expect_fault(FaultCode.CAPACITY, session=2)
            assert fault.retry_after_s > 0
            await client.send(Close(SessionId(1)))
            await client.open(3, _key(3), 80)

    asyncio.run(main())


# Lost sockets.


def test_a_session_is_taken_up_after_a_lost_socket(config, bundle, engine):
    rows = _rows(30)

    async def main() -> None:
        async with serve_cloud(config, engine.load) as server:
            hello = hello_for(bundle.manifest)
            async with welcomed(server.link_url, hello) as client:
                await client.open(1, _key(1), 64)
                await client.run(1, 0, rows[:20], Want.LAST)
            async with welcomed(server.link_url, hello) as client:
                assert (await client.open(1, _key(1), 64)).cached_tokens == 20
                deep = await client.run(1, 20, rows[20:])
                np.testing.assert_array_equal(deep, deep_rows(rows)[20:])

    asyncio.run(main())


def test_a_lost_session_gives_its_cache_back_after_its_time(config, bundle, engine):
    async def main() -> None:
        quick = replace(config, session_ttl_s=0.1)
        async with serve_cloud(quick, engine.load, QUICK) as server:
            async with welcomed(server.link_url, hello_for(bundle.manifest)) as client:
                await client.open(1, _key(1), 64)
                await client.run(1, 0, _rows(8))
                assert engine.num_sequences == 1
            await until(lambda: engine.num_sequences == 0)
            figures = server.daemon.figures()
            assert (figures.num_sessions, figures.reserved_tokens) == (0, 0)

    asyncio.run(main())


def test_a_device_that_asks_and_does_not_read_is_cut_while_others_go_on(
    config, bundle, engine, caplog
):
    async def main() -> None:
        async with (
            serve_cloud(config, engine.load, Patience(stall_timeout_s=1000.0)) as server,
            _healthy_and_stuck(server, bundle) as (healthy, stuck),
        ):
            asking = asyncio.create_task(_ask_without_reading(stuck, engine, lambda: False))
            await _assert_serves_until_alone(server, healthy)
            asking.cancel()

    asyncio.run(main())
    assert "connection 2 cut: it does not read what it asked for" in caplog.text


def test_a_device_that_takes_nothing_for_too_long_is_cut_while_others_go_on(
    config, bundle, engine, caplog
):
    async def main() -> None:
        async with (
            serve_cloud(config, engine.load, QUICK) as server,
            _healthy_and_stuck(server, bundle) as (healthy, stuck),
        ):
            transport = server.daemon._connections[2]._transport
            await _ask_without_reading(stuck, engine, lambda: transport.get_write_buffer_size() > 0)
            await _assert_serves_until_alone(server, healthy)

    asyncio.run(main())
    assert "connection 2 cut: nothing could be sent to it" in caplog.text


@contextlib.asynccontextmanager
async def _healthy_and_stuck(
    server: CloudServer, bundle: Bundle
) -> AsyncIterator[tuple[CloudClient, CloudClient]]:
    """Connections 1 and 2; the second has session 1 open and room for few bytes."""
    hello = hello_for(bundle.manifest)
    async with (
        welcomed(server.link_url, hello) as healthy,
        welcomed(server.link_url, hello, receive_buffer_bytes=4096) as stuck,
    ):
        await stuck.open(1, _key(1), 512)
        yield healthy, stuck


async def _assert_serves_until_alone(server: CloudServer, healthy: CloudClient) -> None:
    """The healthy connection is served all the while, and after the other one is gone."""
    number = 0
    while server.daemon.figures().num_connections == 2:
        number += 1
        await _assert_serves(healthy, number, seed=number)
        await healthy.send(Close(SessionId(number)))
    await _assert_serves(healthy, number + 1, seed=0)


async def _ask_without_reading(
    client: CloudClient, engine: FakeMiddleEngine, is_enough: Callable[[], bool]
) -> None:
    """Ask for all rows of a long frame, again as soon as there must be credit for it."""
    rows = _rows(512)
    while not is_enough():
        num_longest = engine.num_longest
        await client.send(states(1, 0, rows, Want.ALL))
        await until(lambda before=num_longest: engine.num_longest > before)


# TLS.


def test_devices_connect_over_tls(config, bundle, engine, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1"
    names = ["-subj", "/CN=cloud", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*request.split(), *names, *files], check=True, capture_output=True)
    secure = replace(config, tls_certificate=certificate, tls_key=key)

    async def main() -> None:
        async with serve_cloud(secure, engine.load) as server:
            assert server.url.startswith("wss://127.0.0.1:")
            trust = ssl.create_default_context(cafile=certificate)
            async with connected(server.link_url, trust) as client:
                await client.shake_hands(hello_for(bundle.manifest))
                await _assert_serves(client, 1, seed=1)
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                async with connected(server.link_url):
                    pass

    asyncio.run(main())


# Life.


def test_a_draining_cloud_finishes_what_runs_and_takes_nothing_new(config, bundle, engine):
    async def main() -> None:
        async with (
            serve_cloud(config, engine.load, QUICK) as server,
            welcomed(server.link_url, hello_for(bundle.manifest)) as client,
        ):
            await client.open(1, _key(1), 64)
            engine.may_step.clear()
            rows = _rows(4)
            await client.send(states(1, 0, rows))
            draining = asyncio.create_task(server.drain(20))
            await until(lambda: server.daemon.is_draining)
            draining_page = (503, "draining: no new sessions")
            assert await http_get(server.http_url + "/ready") == draining_page
            assert (await http_get(server.http_url + "/health"))[0] == 200
            await client.send(Open(SessionId(2), _key(2), 64))
            await client.expect_fault(FaultCode.DRAINING, session=2)
            engine.may_step.set()
            deep = rows_of(await client.receive(), HIDDEN)
            np.testing.assert_array_equal(deep, deep_rows(rows))
            assert not draining.done()
            await client.send(Close(SessionId(1)))
            await draining

    asyncio.run(main())


def test_devices_are_told_when_the_cloud_stops(config, bundle, engine):
    async def main() -> None:
        async with (
            serve_cloud(config, engine.load) as server,
            welcomed(server.link_url, hello_for(bundle.manifest)) as client,
        ):
            await client.open(1, _key(1), 64)
            await server.drain(0.05)
            closing = asyncio.create_task(server.close())
            await client.expect_fault(FaultCode.DRAINING)
            assert await closing

    asyncio.run(main())


def test_a_cloud_that_loads_is_alive_but_not_ready(config):
    may_load = threading.Event()

    def load(bundle: Bundle, config: CloudConfig) -> LoadedEngine:
        may_load.wait()
        return FakeMiddleEngine().load(bundle, config)

    async def main() -> None:
        server = CloudServer(config, load)
        await server.open()
        loading = asyncio.create_task(server.load())
        try:
            assert (await http_get(server.http_url + "/health"))[0] == 200
            assert await http_get(server.http_url + "/ready") == (503, "loading the model")
            assert (await http_get(server.http_url + "/metrics"))[0] == 200
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

    asyncio.run(main())


def test_an_engine_that_cannot_load_ends_the_start(config):
    def load(bundle: Bundle, config: CloudConfig) -> LoadedEngine:
        raise ConfigError("no such GPU")

    async def main() -> None:
        async with serve_cloud(config, load):
            pass

    with pytest.raises(ConfigError, match="no such GPU"):
        asyncio.run(main())


def test_metrics_count_what_happened_and_tell_nothing_else(config, bundle, engine):
    async def main() -> str:
        async with (
            serve_cloud(config, engine.load) as server,
            welcomed(server.link_url, hello_for(bundle.manifest)) as client,
        ):
            await client.open(1, _key(1), 128)
            await client.send(states(1, 0, _rows(40), Want.NONE))
            await client.receive()
            await client.run(1, 40, _rows(5), Want.ALL)
            await client.send(states(9, 0, _rows(1)))
            await client.expect_fault(FaultCode.UNKNOWN_SESSION, session=9)
            return (await http_get(server.http_url + "/metrics"))[1]

    page = asyncio.run(main())
    lines = page.splitlines()
    for line in (
        "hat_cloud_num_requests_running 0.0",
        "hat_cloud_num_requests_waiting 0.0",
        f"hat_cloud_kv_cache_usage_perc {128 / 4096}",
        "hat_cloud_kv_cache_capacity_tokens 4096.0",
        "hat_cloud_connections 1.0",
        "hat_cloud_sessions 1.0",
        "hat_cloud_prefill_tokens_total 40.0",
        "hat_cloud_verify_tokens_total 5.0",
        'hat_cloud_faults_total{code="UNKNOWN_SESSION"} 1.0',
        'hat_cloud_faults_total{code="INTERNAL"} 0.0',
        "hat_cloud_step_seconds_count 2.0",
        "hat_cloud_batch_tokens_sum 45.0",
    ):
        assert line in lines
    labels = {line.split("{")[1].split("=")[0] for line in lines if "{" in line}
    assert labels == {"le", "code"}


def test_a_taken_port_is_a_clear_error(config, engine):
    async def main() -> None:
        async with serve_cloud(config, engine.load) as server:
            port = int(server.url.rsplit(":", 1)[1])
            async with serve_cloud(replace(config, port=port), engine.load):
                pass

    with pytest.raises(ConfigError, match=r"cannot listen on .*address already in use"):
        asyncio.run(main())

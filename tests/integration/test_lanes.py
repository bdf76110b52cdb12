"""Prompts over several real sockets: the unsplit model's answers, with TLS and through proxies."""

import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cloud_server.server import CloudServer
from device_runtime.config import DeviceConfig
from device_runtime.generation.request import GenerationRequest
from device_runtime.link.lanes import Lane, Lanes
from device_runtime.link.link import Link
from device_runtime.link.proxies import proxy_for
from device_runtime.server import link_config
from device_runtime.session.actions import ComputeAndSend
from process.sockets.aiohttp_socket import AiohttpSocket
from process.sockets.windows import Window
from process.tls.certificates import pin_of_pem
from process.tls.served import ServedTls
from submodels.bundle.bundle import load_bundle
from tests.support.certificates import HAS_OPENSSL
from tests.support.connect_proxy import ConnectProxy
from tests.support.event_loop import until
from tests.support.guarded import make_certificate
from tests.support.reference import STORIES, first_difference, greedy, load_reference, story_prompts
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
from wire.messages import Want
from wire.numbers import pack_rows

needs_openssl = pytest.mark.skipif(not HAS_OPENSSL, reason="openssl makes the certificate")

MAX_TOKENS = 24
STOP_IDS = frozenset({1, 2})


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_for_serving(STORIES, tmp_path_factory.mktemp("stories"), 1, 1)


def figures(cloud: CloudServer) -> tuple[int, int]:
    """Devices and lanes."""
    assert cloud.daemon is not None
    found = cloud.daemon.figures()
    return found.num_connections, found.num_lanes


@pytest.mark.parametrize(
    "known_by", [None, *(pytest.param(name, marks=needs_openssl) for name in ("ca", "pin"))]
)
async def test_answers_over_several_sockets_are_the_unsplit_models(
    bundles: Path, known_by: str | None, tmp_path: Path
) -> None:
    model = load_reference(STORIES)
    cases = [(prompt, greedy(model, prompt, MAX_TOKENS)) for prompt in story_prompts(12)]
    requests = [GenerationRequest(prompt, MAX_TOKENS, GREEDY, STOP_IDS) for prompt, _ in cases]
    device = {"connections": 4, "chunk_tokens": 8, "drafter": "ngram"}
    cloud = {}
    if known_by is not None:
        certificate, key = make_certificate(tmp_path)
        cloud = {"tls_certificate": certificate, "tls_key": key}
        pin = pin_of_pem(certificate.read_bytes())
        device |= {"cloud_ca": certificate} if known_by == "ca" else {"cloud_pin": (pin,)}
    async with (
        serve_cloud(cloud_config(bundles, cloud)) as server,
        connected_device(bundles, server.url, device) as running,
    ):
        await until(lambda: running.link.num_lanes == 3)
        calls = [partial(generate_ids, running.runtime, request) for request in requests]
        came = await gather_bounded(calls, 4)
        assert figures(server) == (1, 3)
        assert running.link.num_connections == 1
    for (_, reference), ids in zip(cases, came, strict=True):
        difference = first_difference(reference, ids)
        assert difference is None or difference.is_tie


@needs_openssl
async def test_a_further_connection_that_meets_another_key_is_none(
    bundles: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Somebody else who answers on the way sees no Join, which has the secret in it."""
    caplog.set_level("INFO")
    certificate, key = make_certificate(tmp_path)
    cloud = {"tls_certificate": certificate, "tls_key": key}
    pin = pin_of_pem(certificate.read_bytes())
    (tmp_path / "others").mkdir()
    foreign = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    foreign.load_cert_chain(*make_certificate(tmp_path / "others"))
    shown: list[ssl.SSLContext] = []

    def context(tls: ServedTls) -> ssl.SSLContext:
        shown.append(foreign if shown else tls._context)
        return shown[-1]

    monkeypatch.setattr(ServedTls, "context", context)
    device = {"connections": 3, "cloud_pin": (pin,)}
    async with (
        serve_cloud(cloud_config(bundles, cloud)) as server,
        connected_device(bundles, server.url, device) as running,
    ):
        await until(lambda: "which is not that of --cloud-pin" in caplog.text)
        await send_prompt(running.link)
        assert figures(server) == (1, 0)
        assert running.link.num_connections == 1
    assert foreign in shown


async def test_forty_sockets_carry_one_prompt_and_the_answer_is_the_unsplit_models(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of one piece each, as after a pause, though this machine's own are larger."""
    took: list[Lane] = []
    give = Lanes._give

    async def told(lanes: Lanes, lane: Lane, piece: bytes) -> None:
        took.append(lane)
        await give(lanes, lane, piece)

    def window(socket: AiohttpSocket) -> Window:
        return Window(580, socket.num_unsent_bytes())

    monkeypatch.setattr(Lane, "is_worn", False)
    monkeypatch.setattr(Lanes, "_give", told)
    monkeypatch.setattr(AiohttpSocket, "window", window)
    # Pieces are dealt by one look, however slow this machine is now.
    monkeypatch.setattr("device_runtime.link.lanes._LOOK_S", 0.5)
    model = load_reference(STORIES)
    prompt = max(story_prompts(12), key=len)
    device = {"connections": 41, "chunk_tokens": 512, "chunking": "fixed", "drafter": "ngram"}
    async with (
        serve_cloud(cloud_config(bundles)) as server,
        connected_device(bundles, server.url, device) as running,
    ):
        await until(lambda: running.link.num_lanes == 40)
        request = GenerationRequest(prompt, MAX_TOKENS, GREEDY, STOP_IDS)
        ids = await generate_ids(running.runtime, request)
        assert figures(server) == (1, 40)
        assert running.link.num_connections == 1
    assert len(set(map(id, took))) > 16
    difference = first_difference(greedy(model, prompt, MAX_TOKENS), ids)
    assert difference is None or difference.is_tie


@contextlib.asynccontextmanager
async def proxied_link(bundles: Path) -> AsyncIterator[tuple[CloudServer, ConnectProxy, Link]]:
    """A cloud, a proxy before it, and a link through that, not yet started."""
    async with serve_cloud(cloud_config(bundles)) as server:
        port = int(server.url.rpartition(":")[2])
        async with ConnectProxy(port).running() as proxy:
            value = f"http://127.0.0.1:{proxy.port}"
            url = "ws://cloud.example:7700"
            config = link_config(DeviceConfig(bundles, cloud=url), load_bundle(bundles, "device"))
            config = replace(config, proxy=proxy_for(url, {"ALL_PROXY": value}), connections=3)
            link = Link(config, REAL.clock, REAL.randomness)
            link.start()
            try:
                yield server, proxy, link
            finally:
                await link.close()


async def send_prompt(link: Link) -> None:
    """Four rows and their reply."""
    session = link.open(16)
    rows = np.zeros((4, 64), np.float32)
    action = ComputeAndSend(1, 0, (1, 2, 3, 4), Want.LAST, False)
    await session.send(action, pack_rows(rows, session.dtype))
    assert (await session.reply()).num_rows == 1
    session.close()


async def test_further_sockets_go_through_a_proxy_too(bundles: Path) -> None:
    async with proxied_link(bundles) as (server, proxy, link):
        await until(lambda: link.num_lanes == 2)
        await send_prompt(link)
        assert len(proxy.asked) == 3
        assert figures(server) == (1, 2)


async def test_a_proxy_that_lets_one_connection_through_leaves_one(
    bundles: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with proxied_link(bundles) as (server, proxy, link):
        await until(lambda: len(proxy.asked) == 1)
        proxy.answer = b"HTTP/1.1 403 Forbidden\r\n\r\n"
        await link.connected()
        await until(lambda: len(proxy.asked) == 3)
        await send_prompt(link)
        assert (link.num_lanes, link.num_connections) == (0, 1)
        assert figures(server) == (1, 0)
    told = [r for r in caplog.records if "no further connection to the cloud" in r.getMessage()]
    assert len(told) == 1


@pytest.mark.parametrize(
    ("cloud", "asked", "expected"),
    [
        ("ws://127.0.0.1:7700", None, 1),
        ("ws://localhost:7700", 3, 3),
        ("wss://cloud.example", None, None),
        ("wss://cloud.example", 1, 1),
    ],
)
def test_a_cloud_on_this_machine_is_given_one_connection_unless_more_are_asked_for(
    bundles: Path, cloud: str, asked: int | None, expected: int | None
) -> None:
    config = DeviceConfig(bundles, cloud=cloud, connections=asked)
    assert link_config(config, load_bundle(bundles, "device")).connections == expected

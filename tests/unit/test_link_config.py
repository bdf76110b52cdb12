import errno
import ssl

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from yarl import URL

from device_runtime.link_config import LinkConfig, LinkConfigError, link_url, tls_context
from device_runtime.refusals import of_error, of_fault, retry_delay_s
from tests.support.fake_cloud import MODEL, fault
from wire.errors import FaultCode, RemoteProtocolError


@pytest.mark.parametrize(
    ("given_url", "url"),
    [
        ("ws://127.0.0.1:7700", "ws://127.0.0.1:7700/v1/link"),
        ("wss://cloud.example/", "wss://cloud.example/v1/link"),
        ("ws://[::1]:7700", "ws://[::1]:7700/v1/link"),
        ("wss://gate.example/hat/one?zone=2", "wss://gate.example/hat/one?zone=2"),
    ],
)
def test_an_address_without_a_path_gets_the_links(given_url, url):
    assert link_url(given_url) == url


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "127.0.0.1:7700",
        "http://cloud",
        "ws://",
        "ws://h:99999",
        "ws://h:x",
        "ws://u:p@h",
        "ws://h:0",
    ],
)
def test_an_address_that_is_no_websocket_is_refused(bad):
    with pytest.raises(LinkConfigError):
        link_url(bad)


def test_a_ca_file_must_exist_hold_a_certificate_and_be_of_use(tmp_path):
    empty = tmp_path / "ca.pem"
    empty.write_text("no certificate")
    for ca_file in (tmp_path / "missing.pem", empty):
        with pytest.raises(LinkConfigError, match="cannot use the CA file"):
            tls_context("wss://cloud/v1/link", ca_file)
    with pytest.raises(LinkConfigError, match="use wss://"):
        tls_context("ws://cloud/v1/link", empty)
    assert tls_context("ws://cloud/v1/link", None) is None


def test_a_secret_does_not_show_in_the_repr():
    assert "hunter2" not in repr(LinkConfig("ws://cloud", MODEL, b"hunter2"))


def connection_key():
    return aiohttp.client_reqrep.ConnectionKey("cloud", 7700, True, None, None, None, None)


def handshake_error(status):
    info = aiohttp.RequestInfo(URL("ws://cloud"), "GET", CIMultiDict(), URL("ws://cloud"))
    return aiohttp.WSServerHandshakeError(info, (), status=status)


@pytest.mark.parametrize(
    ("error", "words", "is_permanent"),
    [
        (
            aiohttp.ClientConnectorError(connection_key(), OSError(errno.ECONNREFUSED, "refused")),
            "cannot reach the cloud at cloud:7700: connection refused; is it running there",
            False,
        ),
        (
            aiohttp.ClientConnectorCertificateError(
                connection_key(), ssl.SSLCertVerificationError("self-signed")
            ),
            "does not trust; give its CA with --cloud-ca",
            True,
        ),
        (
            aiohttp.ClientConnectorSSLError(connection_key(), ssl.SSLError("wrong version")),
            "does not speak TLS",
            True,
        ),
        (handshake_error(404), "answers HTTP 404", True),
        (handshake_error(503), "takes no devices now", False),
        (handshake_error(500), "answers HTTP 500", False),
        (TimeoutError(), "does not answer", False),
        (RemoteProtocolError(FaultCode.BAD_FRAME, "nonsense"), "broke the protocol", False),
        (ConnectionResetError(), "lost the cloud", False),
    ],
)
def test_an_error_is_told_in_words_and_known_to_heal_or_not(error, words, is_permanent):
    refusal = of_error(error, "cloud:7700")
    assert words in refusal.reason
    assert refusal.is_permanent is is_permanent


@pytest.mark.parametrize("code", FaultCode)
def test_every_fault_of_a_connection_has_a_reason_and_a_way_on(code):
    refusal = of_fault(fault(code, 3.0, "details"), "cloud:7700")
    assert "the cloud at cloud:7700 " in refusal.reason
    assert "(details)" in refusal.reason
    assert refusal.is_permanent or refusal.retry_after_s == 3.0


@given(attempt=st.integers(0, 10**6), draw=st.floats(0.0, 1.0, exclude_max=True))
def test_retries_back_off_within_bounds(attempt, draw):
    delay_s = retry_delay_s(attempt, draw, 0.25, 5.0)
    assert 0.125 <= delay_s <= 5.0
    if attempt > 5:
        assert delay_s >= 2.5

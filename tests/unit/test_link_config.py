import contextlib
import errno
import ssl

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.link.config import (
    LinkConfig,
    link_url,
    tls_context,
)
from device_runtime.link.proxies import proxy_for
from device_runtime.link.refusals import of_error, of_fault, retry_delay_s
from process.errors import StartError
from tests.support.fake_cloud import MODEL, fault
from tests.support.link_errors import connection_key, handshake_error, request_info
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
    with pytest.raises(StartError):
        link_url(bad)


def test_a_ca_file_must_exist_hold_a_certificate_and_be_of_use(tmp_path):
    empty = tmp_path / "ca.pem"
    empty.write_text("no certificate")
    for ca_file in (tmp_path / "missing.pem", empty):
        with pytest.raises(StartError, match="cannot use the CA file"):
            tls_context("wss://cloud/v1/link", ca_file)
    with pytest.raises(StartError, match="use wss://"):
        tls_context("ws://cloud/v1/link", empty)
    assert tls_context("ws://cloud/v1/link", None) is None


def test_a_proxy_of_the_environment_is_taken_or_refused_as_a_setting_is():
    environ = {"HTTPS_PROXY": "http://me:hunter2@proxy:3128", "HTTP_PROXY": "socks5://proxy:1080"}
    proxy = proxy_for("wss://cloud", environ)
    assert "hunter2" not in repr(LinkConfig("wss://cloud", MODEL, proxy=proxy))
    with pytest.raises(StartError, match="of kind socks5://"):
        proxy_for("ws://cloud", environ)
    assert proxy_for("ws://127.0.0.1:7700", environ) is None


def test_a_secret_does_not_show_in_the_repr():
    assert "hunter2" not in repr(LinkConfig("ws://cloud", MODEL, b"hunter2"))


def alert(reason: str) -> aiohttp.ClientOSError:
    """What aiohttp makes of an error of TLS behind the handshake; its number is TLS's own."""
    cause = ssl.SSLError(1, f"[SSL: {reason}] words (_ssl.c:2580)")
    cause.reason = reason
    error = aiohttp.ClientOSError(*cause.args)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "words", "is_permanent"),
    [
        (
            aiohttp.ClientConnectorError(connection_key(), OSError(errno.ECONNREFUSED, "refused")),
            "cannot reach the cloud at cloud:7700: refused; is it running there",
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
        (alert("SSLV3_ALERT_UNSUPPORTED_CERTIFICATE"), "is not one for clients", True),
        (alert("SSLV3_ALERT_CERTIFICATE_REVOKED"), "finds this device's certificate revoked", True),
        (alert("TLSV1_ALERT_DECRYPT_ERROR"), "does not go on with TLS", True),
        (alert("DECRYPTION_FAILED_OR_BAD_RECORD_MAC"), "cloud:7700: TLS broke off", False),
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


def subclasses(kind: type[BaseException]) -> set[type[BaseException]]:
    return {kind}.union(*(subclasses(each) for each in kind.__subclasses__()))


FOREIGN = sorted(
    {
        kind
        for base in (aiohttp.ClientError, aiohttp.http_exceptions.HttpProcessingError, OSError)
        for kind in subclasses(base)
        if kind.__module__.split(".")[0] in ("aiohttp", "builtins", "ssl", "socket", "asyncio")
    }
    | {TimeoutError, RemoteProtocolError, ValueError, RuntimeError},
    key=lambda kind: kind.__qualname__,
)


def made(kind: type[BaseException]) -> list[BaseException]:
    """Instances of an exception, with and without words; some want arguments of their own."""
    key, info = connection_key(), request_info()
    tries = [
        (),
        ("some words",),
        (errno.ECONNRESET, "some words"),
        (key, OSError(errno.EHOSTUNREACH, "Connect call failed ('10.0.0.1', 7700)")),
        (key, ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)")),
        (key, OSError("Multiple exceptions: [Errno 111] Connect call failed")),
        ("/path", key, OSError()),
        (b"expected", b"got", "cloud", 7700),
        (info, ()),
        (FaultCode.BAD_FRAME, "words"),
    ]
    errors = []
    for arguments in tries:
        with contextlib.suppress(TypeError, ValueError, AttributeError):
            errors.append(kind(*arguments))
    return errors


@pytest.mark.parametrize("kind", FOREIGN, ids=lambda kind: kind.__qualname__)
def test_no_name_of_a_class_reaches_a_user(kind):
    errors = made(kind)
    assert errors, "none could be made"
    names = {each.__name__ for each in FOREIGN} | {"_ssl", "Errno", "Connect call", "aiohttp"}
    for error in errors:
        reason = of_error(error, "cloud:7700").reason
        assert "cloud:7700" in reason
        assert not reason.rstrip().endswith(":")
        assert [name for name in names if name in reason] == []


def certificate_error(code: int, message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, message
    return error


@pytest.mark.parametrize(
    ("code", "words", "may_name_ca"),
    [
        (9, "not valid yet", False),
        (10, "has expired", False),
        (18, "does not trust", True),
        (19, "does not trust", True),
        (20, "does not trust", True),
        (21, "does not trust", True),
        (23, "was revoked", False),
        (62, "for another host name", False),
        (64, "for another address", False),
        (66, "cannot be used: EE certificate key too weak", False),
    ],
)
@pytest.mark.parametrize("is_wrapped", [True, False])
def test_a_certificate_is_named_for_what_it_is(code, words, may_name_ca, is_wrapped):
    error = certificate_error(code, "EE certificate key too weak")
    if is_wrapped:
        error = aiohttp.ClientConnectorCertificateError(connection_key(), error)
    reason = of_error(error, "cloud:7700").reason
    assert words in reason
    assert ("--cloud-ca" in reason) is may_name_ca

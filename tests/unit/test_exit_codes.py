"""What a program's exit code says to whoever would start it again."""

import errno
import logging
import socket
import ssl

import pytest

from device_runtime.fetching.listing import FetchError, NotLetInError
from hat.cli import as_supervisor_reads
from process.errors import ConfigError, PassingError, StartError, UserError
from process.program.exposure import Notice, tell
from process.program.run import told
from submodels.errors import BundleError


def _caused(error: UserError, by: Exception) -> UserError:
    try:
        raise error from by
    except UserError as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StartError("tls_certificate and tls_key go together"), 2),
        (ConfigError("missing BUNDLE"), 2),
        (BundleError("hat.json is missing"), 2),
        (PassingError("no memory for a KV cache"), 1),
        (FetchError("the cloud does not answer"), 1),
        (NotLetInError("the cloud refused this device's secret"), 2),
        (_caused(StartError("cannot listen"), OSError(errno.EADDRINUSE, "in use")), 1),
        (_caused(StartError("cannot listen"), OSError(errno.EADDRNOTAVAIL, "no address")), 1),
        (_caused(StartError("cannot listen"), OSError(errno.EACCES, "port 80")), 2),
        (_caused(StartError("cannot listen"), socket.gaierror(socket.EAI_NONAME, "name")), 1),
        (_caused(StartError("TLS"), OSError(errno.ENOSPC, "full")), 1),
        (_caused(StartError("TLS"), ssl.SSLError(errno.ESTALE, "KEY_VALUES_MISMATCH")), 2),
        (_caused(BundleError("cannot read"), OSError(errno.EACCES, "denied")), 2),
        (_caused(FetchError("cannot write"), OSError(errno.EROFS, "read-only")), 2),
        (_caused(FetchError("cannot write"), OSError(errno.ENOSPC, "full")), 1),
        (_caused(StartError("the tokens file"), UserError("expected UTF-8")), 2),
        (
            _caused(StartError("file"), _caused(UserError("it"), OSError(errno.EIO, "disk"))),
            1,
        ),
    ],
    ids=str,
)
def test_2_is_for_what_somebody_has_to_mend_and_1_for_what_may_pass(
    error: UserError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(error) == code
    assert capsys.readouterr().err == f"hat: {error}\n"


def test_a_certificate_that_has_expired_may_be_renewed_meanwhile() -> None:
    for notice, kind in (
        (Notice("it has expired", fatal=True, may_pass=True), PassingError),
        (Notice("no TLS", fatal=True), StartError),
    ):
        with pytest.raises(StartError) as raised:
            tell([notice], logging.getLogger(__name__))
        assert type(raised.value) is kind


def test_launchd_is_told_in_the_one_way_that_it_knows(capsys: pytest.CaptureFixture[str]) -> None:
    launchd = {"HAT_SUPERVISOR": "launchd"}
    assert as_supervisor_reads(2, launchd) == 0
    assert "launchd is told that all is well" in capsys.readouterr().err
    assert [as_supervisor_reads(code, launchd) for code in (0, 1, 130)] == [0, 1, 130]
    assert [as_supervisor_reads(code, {}) for code in (0, 1, 2)] == [0, 1, 2]
    assert capsys.readouterr().err == ""

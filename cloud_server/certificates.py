"""The cloud's certificate: made if it is to be, taken up when its files change, watched."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from cloud_server.config import CloudConfig
from process.errors import StartError
from process.machine import cache_folder
from process.program.exposure import certificate_notices
from process.tls.certificates import Validity
from process.tls.self_signed import self_signed
from process.tls.served import ServedTls

_log = logging.getLogger(__name__)

_LOOK_S = 5.0

_SAID_AGAIN = timedelta(days=1)


def with_own_certificate(
    config: CloudConfig, names: Sequence[str], environ: Mapping[str, str], now: datetime
) -> CloudConfig:
    """The settings with the files of a certificate that is made here, if they ask for one.

    It is for these names and addresses of the machine, and those of the settings.

    Raises:
        StartError: it cannot be kept, or they name another certificate as well.
    """
    if not config.tls_self_signed:
        return config
    if config.tls_certificate is not None or config.tls_key is not None:
        raise StartError("tls_self_signed makes a certificate: leave out tls_certificate, tls_key")
    files = self_signed(cache_folder(environ) / "tls", [*config.tls_names, *names], now)
    return replace(config, tls_certificate=files.certificate, tls_key=files.key)


def tls_lines(config: CloudConfig, tls: ServedTls, url: str, has_names: bool = False) -> list[str]:
    """What a device is told to know this cloud at `url`, ready to be pasted."""
    bundle = "" if config.serve_device_bundle is not None else "BUNDLE "
    parts = [f"hat device {bundle}--cloud {url}"]
    if config.tls_self_signed or (tls.pin is not None and not tls.names):
        parts.append(f"--cloud-pin {tls.pin}")
    if has_names or config.secret is not None:
        parts.append(f"--secret-file {'TOKEN' if has_names else 'SECRET'}")
    kind = "self-signed, kept in" if config.tls_self_signed else "from"
    pin = "" if tls.pin is None else f"; pin {tls.pin}"
    return [
        f"tls       {kind} {tls.certificate}, valid until {tls.ends:%Y-%m-%d}{pin}",
        f"device    {' '.join(parts)}",
    ]


async def watch(tls: ServedTls, now: Callable[[], datetime], every_s: float = _LOOK_S) -> None:
    """Take up the files when they change, and say when the certificate ends soon; until cancelled.

    What is to be said at the start is said by then.
    """
    said = now()
    while True:
        await asyncio.sleep(every_s)
        moment = now()
        try:
            if tls.look(moment):
                _log.info("took up %s, valid until %s", tls.certificate, f"{tls.ends:%Y-%m-%d}")
                said = moment - _SAID_AGAIN
        except StartError as error:
            _log.error("the certificate stays what it was: %s", error)
        if moment - said >= _SAID_AGAIN:
            said = moment
            # That it has begun was seen when it was taken up, or said.
            for notice in certificate_notices(
                str(tls.certificate), [Validity(moment, tls.ends)], moment
            ):
                _log.log(logging.ERROR if notice.fatal else logging.WARNING, "%s", notice.text)

"""What a cloud's settings expose to whom."""

from datetime import datetime
from pathlib import Path

from cloud_server.config import CloudConfig
from process.addresses import is_wildcard
from process.listening.limits import Limits
from process.program.exposure import Notice, certificate_notices, is_loopback, secret_notices
from process.tls.certificates import CertificateError, names_of_pem, validities
from wire.limits import MAX_CREDENTIAL_BYTES

_ADVICE = "give it --tls-self-signed, or --tls-certificate and --tls-key"


def exposure_of(
    config: CloudConfig, limits: Limits, now: datetime, has_names: bool = False
) -> list[Notice]:
    """What the user should know, or what can never work; `has_names`: devices show tokens."""
    notices = [*secret_notices(config.secret, MAX_CREDENTIAL_BYTES), *_contradictions(config)]
    if not is_loopback(config.host):
        notices += _open_to_others(config, has_names)
    if config.serve_device_bundle is not None:
        notices.append(_holds_the_ends(config, has_names))
    if not is_loopback(config.metrics_host):
        notices.append(_open_figures(config))
    if config.tls_certificate is not None:
        notices += _certificate_notices(config.tls_certificate, now)
    if limits.max_connections < config.max_connections:
        text = f"there is room for {limits.max_connections} sockets and not for"
        notices.append(Notice(f"{text} {config.max_connections} devices: raise `ulimit -n`"))
    return notices


def _contradictions(config: CloudConfig) -> list[Notice]:
    """What was asked for and cannot be had as it was said."""
    notices = []
    if _is_one_port(config):
        text = f"--metrics-port {config.port} is --port as well"
        notices.append(Notice(f"{text}: /metrics wants a port of its own", fatal=True))
    if config.tls_names and not config.tls_self_signed:
        text = "--tls-names are those of a certificate that is made here: add --tls-self-signed"
        notices.append(Notice(text, fatal=True))
    return notices


def _is_one_port(config: CloudConfig) -> bool:
    """Devices and figures cannot have one port of one address; 0 takes free ones."""
    hosts = {config.host, config.metrics_host}
    is_shared = len(hosts) == 1 or any(map(is_wildcard, hosts))
    is_shared = is_shared or ("localhost" in hosts and all(map(is_loopback, hosts)))
    return is_shared and config.metrics_port == config.port != 0


def _open_to_others(config: CloudConfig, has_names: bool) -> list[Notice]:
    where = f"on {config.host}"
    notices = []
    is_open = config.secret is None and not has_names
    if is_open:
        advice = "give it a --secret-file, or names with `hat token add`"
        text = f"whoever reaches this cloud {where} may use it: {advice}"
        notices.append(Notice(text))
    if _speaks_tls(config):
        return notices
    what = "rows" if is_open else "rows and the secret"
    if config.insecure:
        return [*notices, Notice(f"{what} come in unencrypted {where}, as --insecure has it")]
    text = f"{what} would come in unencrypted {where}: {_ADVICE}; or add --insecure"
    return [*notices, Notice(text, fatal=True)]


def _open_figures(config: CloudConfig) -> Notice:
    """Who reads how busy all are, and by whom."""
    where = f"on {config.metrics_host}, at /metrics"
    if not _speaks_tls(config) and not config.insecure:
        text = f"what all devices do could be read unencrypted {where}: {_ADVICE}"
        return Notice(f"{text}; or add --insecure", fatal=True)
    without = "TLS or secret" if config.insecure else "a secret"
    text = f"what all devices do can be read without {without} {where}"
    return Notice(f"{text}: let only a private network reach it")


def _speaks_tls(config: CloudConfig) -> bool:
    return config.tls_certificate is not None or config.tls_self_signed


def _holds_the_ends(config: CloudConfig, has_names: bool) -> Notice:
    is_open = config.secret is None and not has_names
    who = "whoever reaches it" if is_open else "whoever may connect"
    return Notice(
        f"this cloud gives the device bundle {config.serve_device_bundle} to {who}, so it holds "
        "the first and last layers as well: whoever runs it can work back from rows to texts"
    )


def _certificate_notices(path: Path, now: datetime) -> list[Notice]:
    try:
        pem = path.read_bytes()
        notices = certificate_notices(str(path), validities(pem), now)
        has_names = bool(names_of_pem(pem))
    except (OSError, CertificateError):
        # Whether it can be used at all is said by who uses it.
        return []
    if not has_names:
        text = f"the certificate {path} is for no host (it has no alternative names)"
        notices.append(Notice(f"{text}: devices take it by its pin alone"))
    return notices

"""What a cloud's port lets in, from its settings: bounds, proxies, certificates, and two logs."""

import asyncio
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from cloud_server.config import CloudConfig
from cloud_server.daemon.turns import Shares
from cloud_server.daemon.wrong_secrets import WrongSecrets
from process.errors import StartError, system_reason
from process.listening.addresses import Network, parse_networks
from process.listening.guard import Guard
from process.listening.limits import Limits, default_max_connections, default_max_per_address
from process.open_files import open_files_limit
from process.quiet_log import QuietLog
from process.sockets.congestion import check_congestion_control
from process.tls.certificates import why_no_pair
from process.tls.told import telling_context
from process.world import Clock

_log = logging.getLogger(__name__)

_SPARE_SOCKETS = 256
"""For probes, for what reads the metrics, and for devices that have not said Hello yet."""

_USUAL_SOCKETS = 1024


@dataclass(frozen=True, slots=True)
class Reception:
    """What all device sockets of a cloud share."""

    guard: Guard
    visits: QuietLog
    wrong_secrets: WrongSecrets
    """By address: whose next one is wrong too waits."""
    full_names: WrongSecrets
    """By name: whose connection was one too many waits for the next answer."""
    shares: Shares
    hello_timeout_s: float
    clock: Clock
    congestion_control: str | None = None
    """Of each device's connection; None: the kernel's own."""


def make_reception(config: CloudConfig, clock: Clock) -> Reception:
    """The reception of a cloud; belongs to the running event loop, whose `clock` it is.

    Raises:
        StartError: a trusted proxy is no address, or the congestion control cannot be chosen.
    """
    check_congestion_control(config.congestion_control)
    loop = asyncio.get_running_loop()
    refusals = QuietLog(_log, clock, loop.call_later)
    limits = socket_limits(config)
    guard = Guard(limits, refusals, trusted=trusted_proxies(config), takes_bodies=False)
    visits = QuietLog(_log, clock, loop.call_later)
    # Half of what an address may have of the rest: the engine needs the interpreter as well.
    share = 1.0 if config.identity_share >= 1 else config.identity_share / 2
    shares = Shares(share, clock)
    return Reception(
        guard=guard,
        visits=visits,
        wrong_secrets=WrongSecrets(),
        full_names=WrongSecrets(),
        shares=shares,
        hello_timeout_s=limits.head_timeout_s,
        clock=clock,
        congestion_control=config.congestion_control,
    )


def socket_limits(config: CloudConfig) -> Limits:
    """How many sockets there may be: as set, or what the limit of open files allows."""
    wanted = max(_USUAL_SOCKETS, 2 * config.max_connections + _SPARE_SOCKETS)
    total = config.max_sockets or default_max_connections(open_files_limit(), wanted)
    return Limits(total, config.max_sockets_per_address or default_max_per_address(total))


def trusted_proxies(config: CloudConfig) -> tuple[Network, ...]:
    """The proxies whose X-Forwarded-For is believed.

    Raises:
        StartError: one of them is no address and no network.
    """
    try:
        return parse_networks(config.trusted_proxies)
    except ValueError as error:
        raise StartError(f"trusted_proxies: {error}") from error


def server_tls(
    certificate: Path | None, key: Path | None, client_ca: Path | None = None
) -> ssl.SSLContext | None:
    """A context for both files, or None for neither.

    With `client_ca` whoever connects may show a certificate, which must then be of that authority.

    Raises:
        StartError: one without the other, or files that cannot be used.
    """
    if certificate is None and key is None:
        if client_ca is not None:
            raise StartError(
                "tls_client_ca: devices show certificates over TLS alone: give tls_certificate and "
                "tls_key, or tls_self_signed"
            )
        return None
    if certificate is None or key is None:
        raise StartError("tls_certificate and tls_key go together")
    for path in (certificate, key):
        if not path.is_file():
            raise StartError(f"TLS: no file {path}")
    context = telling_context()
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = why_no_pair(error)
        raise StartError(f"TLS: cannot use {certificate} with {key}: {reason}") from error
    if client_ca is not None:
        _ask_for_certificates(context, client_ca)
    return context


def _ask_for_certificates(context: ssl.SSLContext, client_ca: Path) -> None:
    try:
        context.load_verify_locations(client_ca)
    except ssl.SSLError as error:
        raise StartError(f"tls_client_ca: no certificate is in {client_ca}") from error
    except OSError as error:
        raise StartError(
            f"tls_client_ca: cannot read {client_ca}: {system_reason(error)}"
        ) from error
    # Whoever shows none has a token, or goes.
    context.verify_mode = ssl.CERT_OPTIONAL


def _no_password() -> str:
    """Asked for when the key is encrypted; a daemon has nobody to ask."""
    raise ValueError("the key is encrypted; give one without a passphrase")

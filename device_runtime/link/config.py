"""How the device reaches its cloud: address, greeting, secrets and patience."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from device_runtime.link.proxies import Proxy
from process.addresses import is_url, without_user
from process.errors import StartError
from process.tls.certificates import parse_pin, why_no_pair
from process.tls.pinned import pinned_context
from wire.coding.lossy import Rounding
from wire.handshake import LINK_PATH, MIN_VERSION, VERSION
from wire.limits import MAX_LANES
from wire.messages import Ability, Codec, Dtype, Hello
from wire.numbers import SUPPORTED_CODECS, TAPPED_CODECS

CLOSE_S = 2.0
"""So long a socket may take to say goodbye."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the link waits for what.

    `connect_s` is for a whole opening, from the look-up of the name to the Welcome; a link that is
    silent for `heartbeat_s` is lost. Of one session nothing may be heard for `open_s` while it is
    opened and for `reply_s` later, before it is opened again by its key. Reconnecting starts at
    `min_retry_s`, doubles up to `max_retry_s`, and comes back every `refused_retry_s` while the
    cloud refuses this device for good; on a link that has worked, what has not lasted for
    `permanent_after_s` is not for good.
    """

    connect_s: float = 10.0
    open_s: float = 60.0
    reply_s: float = 60.0
    heartbeat_s: float = 10.0
    min_retry_s: float = 0.25
    max_retry_s: float = 5.0
    refused_retry_s: float = 30.0
    permanent_after_s: float = 30.0


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model the device holds: what Hello says about it.

    Fingerprints have 32 bytes; the middle layers are `[first_layer, first_layer + num_layers)`.
    """

    fingerprint: bytes
    first_layer: int
    num_layers: int
    hidden_size: int
    middle_fingerprint: bytes = b""
    """Of the middle layers alone; empty: the whole model is named."""


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What this device shows to its cloud while TLS is agreed on: two files (PEM)."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """Everything a link needs. `secret`, or a token, never shows in a message or a repr."""

    url: str
    model: ModelIdentity
    secret: bytes = field(default=b"", repr=False)
    ca_file: Path | None = None
    shown: ClientCertificate | None = None
    pins: tuple[str, ...] = ()
    """Of the cloud's key, one of which must be its; none: any key of a trusted certificate."""
    proxy: Proxy | None = None
    codec: Codec = Codec.RAW
    """What rows may be in besides RAW, where the cloud speaks it."""
    rounding: Rounding = Rounding()
    """Which rows may be rounded, where the cloud allows it."""
    congestion_control: str | None = None
    """Of each connection; None: the kernel's own."""
    connections: int | None = 1
    """Sockets at once; None: as many as the link is worth."""
    patience: Patience = field(default_factory=Patience)

    @property
    def most_lanes(self) -> int:
        """Further sockets that it may have."""
        return MAX_LANES if self.connections is None else self.connections - 1

    def hello(
        self, wants_taps: bool = False, wants_lanes: bool = False, names_middle: bool = True
    ) -> Hello:
        """The first frame of every connection; without `names_middle` for a cloud of an earlier
        release, which knows whole models only."""
        model = self.model
        names_middle = names_middle and bool(model.middle_fingerprint)
        abilities = wants_lanes << Ability.LANES | names_middle << Ability.MIDDLE
        abilities |= 1 << Ability.QUOTAS | 1 << Ability.TRACES
        rows = TAPPED_CODECS if wants_taps else SUPPORTED_CODECS
        return Hello(
            min_version=MIN_VERSION,
            max_version=VERSION,
            fingerprint=model.middle_fingerprint if names_middle else model.fingerprint,
            first_layer=model.first_layer,
            num_layers=model.num_layers,
            hidden_size=model.hidden_size,
            dtypes=1 << Dtype.FP32 | 1 << Dtype.FP16 | 1 << Dtype.BF16,
            codecs=rows | 1 << self.codec | self.rounding.codecs | abilities,
            credential=self.secret,
        )


def link_url(cloud: str) -> str:
    """The WebSocket address of a cloud, with the path of the link if none is given.

    Raises:
        StartError: not a ws:// or wss:// address with a host.
    """
    if not is_url(cloud, ("ws", "wss")) or urlsplit(cloud).username is not None:
        got = without_user(cloud)
        raise StartError(f"expected a cloud address like wss://host:port, got {got!r}")
    parts = urlsplit(cloud)
    path = LINK_PATH if parts.path in ("", "/") else parts.path
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def tls_context(url: str, ca_file: Path | None, pins: Sequence[str] = ()) -> ssl.SSLContext | None:
    """What a wss:// address is checked with: pins, `ca_file`, both, or the system's authorities.

    Raises:
        StartError: the file cannot be read, holds no certificate, or the address is ws://.
    """
    if not url.startswith("wss:"):
        if ca_file is not None:
            raise StartError("a CA file is of no use for a ws:// address; use wss://")
        if pins:
            raise StartError("a pin is of no use for a ws:// address; use wss://")
        return None
    try:
        if pins:
            return pinned_context(map(parse_pin, pins), ca_file)
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise StartError(f"cannot use the CA file {ca_file}: no certificate is in it") from error
    except OSError as error:
        why = (error.strerror or "it cannot be read").lower()
        raise StartError(f"cannot use the CA file {ca_file}: {why}") from error


def client_certificate(certificate: Path | None, key: Path | None) -> ClientCertificate | None:
    """What to show, if anything.

    Raises:
        StartError: one file without the other.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise StartError("cloud_client_cert and cloud_client_key go together")
    return ClientCertificate(certificate, key)


def showing(
    context: ssl.SSLContext | None, shown: ClientCertificate | None
) -> ssl.SSLContext | None:
    """The same context, which shows a certificate to whoever asks for one.

    Raises:
        StartError: its files cannot be used, or the address is ws://.
    """
    if shown is None:
        return context
    if context is None:
        raise StartError("a client certificate is of no use for a ws:// address; use wss://")
    for path in (shown.certificate, shown.key):
        if not path.is_file():
            raise StartError(f"client certificate: no file {path}")
    try:
        context.load_cert_chain(shown.certificate, shown.key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        why = why_no_pair(error)
        files = f"{shown.certificate} with {shown.key}"
        raise StartError(f"client certificate: cannot use {files}: {why}") from error
    return context


def _no_password() -> str:
    """Asked for when the key is encrypted; a daemon has nobody to ask."""
    raise ValueError("the key is encrypted; give one without a passphrase")

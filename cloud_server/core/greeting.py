"""Who is let in: by what a device shows, and by the room there is for its connection."""

from cloud_server.core.config import CoreConfig
from cloud_server.core.links import Link, Links
from cloud_server.core.names.people import People, Person, told
from cloud_server.core.names.quota import QuotaKind, refusal_of, there_are
from wire.codec import Frame
from wire.errors import FaultCode, RemoteProtocolError
from wire.handshake import CloudTerms, answer_hello, check_join
from wire.messages import Hello, Join

QUOTA_RETRY_S = 15.0
"""After which a connection too many of a name may be tried again."""


def retry_after_s(code: FaultCode, full_s: float) -> float:
    """When to come back after a connection was refused; 0: not as it is. `full_s` is what a cloud
    that is full says."""
    match code:
        case FaultCode.QUOTA:
            return max(full_s, QUOTA_RETRY_S)
        case FaultCode.TOO_MANY_SESSIONS | FaultCode.DRAINING:
            return full_s
        case _:
            return 0.0


class Greeter:
    """Answers the first frame of each socket, and knows who may stay."""

    def __init__(self, config: CoreConfig, links: Links, people: People) -> None:
        self._config = config
        self._terms = _terms_of(config)
        self._links = links
        self._people = people

    def greet(self, link: Link, hello: Hello, now: float) -> Link | None:
        """Welcome a device that fits; another connection must end for it if one is returned.

        Raises:
            RemoteProtocolError: it does not fit, or there is no room.
        """
        person, stranger = self._person(link, hello.credential, now)
        welcome = answer_hello(hello, self._terms, link.lane_key, stranger)
        assert person is not None, "strangers are refused"
        link.person, link.identity = person, person.identity_at(link.identity)
        self._check_connections(link)
        victim = None
        if self._links.num_greeted >= self._config.max_connections:
            victim = self._replaceable(link, now)
        self._links.greet(link)
        self._links.send(link, welcome)
        return victim

    def check_join(self, lane: Link, join: Join, now: float) -> None:
        """Let a further socket in, whose person is known from here on.

        Raises:
            RemoteProtocolError: it shows nothing that lets it in.
        """
        lane.person, stranger = self._person(lane, join.credential, now)
        check_join(join, self._terms, stranger)

    def who_shows(self, link: Link, frame: Frame | str, now: float) -> Person | None:
        """Whose a socket is by its first frame; None: nobody's who may come."""
        try:
            message = link.decode(frame)
        except RemoteProtocolError:
            return None
        if not isinstance(message, Hello | Join):
            return None
        return self._people.who(message.credential, link.certificate, now)

    def too_many_reason(self) -> str:
        """Why a connection ends for another."""
        return f"expected at most {self._config.max_connections} connections"

    def unwelcome(self, now: float) -> list[tuple[Link, str]]:
        """The sockets whose person may stay no longer, and why."""
        found = []
        for link in self._links:
            if link.person is not None:
                reason = self._people.why_no_more(link.person, now)
                found += [] if reason is None else [(link, reason)]
        return found

    def _person(self, link: Link, credential: bytes, now: float) -> tuple[Person | None, str]:
        """Whose a socket is, or why it is nobody's."""
        person = self._people.who(credential, link.certificate, now)
        if person is not None:
            return person, ""
        return None, self._people.why_not(credential, link.certificate, now)

    def _check_connections(self, link: Link) -> None:
        num, quota = self._links.num_of(link.identity), self._people.quota_of(link.identity)
        assert link.person is not None, "it was let in"
        if quota.connections is not None and num >= quota.connections:
            got, kind = there_are(num), QuotaKind.CONNECTIONS
            refusal = refusal_of(link.person.name, quota, kind, got, QUOTA_RETRY_S)
            raise RemoteProtocolError(FaultCode.QUOTA, refusal.message)
        most = self._config.most_connections(self._links.is_alone(link.identity))
        if num >= most:
            reason = f"expected at most {most} connections of one {told(link.identity)}"
            raise RemoteProtocolError(FaultCode.TOO_MANY_SESSIONS, reason)

    def _replaceable(self, newcomer: Link, now: float) -> Link:
        idle = self._links.replaceable(newcomer.identity, self._config.quiet_s, now)
        if idle is None:
            raise RemoteProtocolError(FaultCode.TOO_MANY_SESSIONS, self.too_many_reason())
        return idle


def _terms_of(config: CoreConfig) -> CloudTerms:
    return CloudTerms(
        fingerprint=config.fingerprint,
        middle_fingerprint=config.middle_fingerprint,
        first_layer=config.first_layer,
        num_layers=config.num_layers,
        credential=config.credential,
        rows=config.rows,
        max_context_tokens=config.max_context_tokens,
        credit_limit_tokens=config.credit_window_tokens,
        session_ttl_s=config.session_ttl_s,
        tables=config.tables,
    )

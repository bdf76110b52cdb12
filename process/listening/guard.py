"""One listener's guard: who is inside, what is refused, and what is said about it."""

import logging
from collections.abc import Sequence

from aiohttp import hdrs, web

from process.listening.addresses import Network, address_key, client_host, is_trusted
from process.listening.door import Door, FullError, Visit
from process.listening.limits import Limits
from process.listening.refusals import FULL, Refusal, Refuse, check_head, plain
from process.quiet_log import QuietLog


class Guard:
    """Belongs to one event loop. `trusted` are the proxies whose X-Forwarded-For is believed."""

    def __init__(
        self,
        limits: Limits,
        log: QuietLog,
        refuse: Refuse = plain,
        trusted: Sequence[Network] = (),
        takes_bodies: bool = True,
    ) -> None:
        self.limits = limits
        self.door = Door(limits.max_connections, limits.max_per_address)
        self.log = log
        self.refuse = refuse
        self._trusted = trusted
        self._takes_bodies = takes_bodies

    def enter(self, visit: Visit) -> bool:
        """Let a connection in, whoever must go for it; False: there is no room."""
        try:
            victim = self.door.enter(visit)
        except FullError:
            self.say(visit, "no room for another connection")
            return False
        self._put_out(victim)
        return True

    def address_of(self, host: str) -> str | None:
        """What a connection is counted under, before its request has said anything."""
        return None if is_trusted(host, self._trusted) else address_key(host)

    def check(self, request: web.BaseRequest, visit: Visit) -> Refusal | None:
        """Whether a request is taken, as far as its head says."""
        refusal = check_head(request, self.limits, self._takes_bodies)
        if refusal is not None or not is_trusted(visit.host, self._trusted):
            return refusal
        values = request.headers.getall(hdrs.X_FORWARDED_FOR, ())
        host = client_host(visit.host, values, self._trusted)
        try:
            self._put_out(self.door.move(visit, address_key(host)))
        except FullError:
            return FULL
        return None

    def say(self, visit: Visit, reason: str) -> None:
        """Note a refusal."""
        self.log.say(logging.INFO, "refused %s: %s", visit.address or visit.host, reason)

    def _put_out(self, victim: Visit | None) -> None:
        if victim is not None:
            self.say(victim, "it said nothing, and others need its place")
            victim.put_out()

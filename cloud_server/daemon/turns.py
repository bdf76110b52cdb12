"""How much of the event loop one device may have: in one go, and while there are others.

The engine's thread shares the interpreter with the loop. A loop that one device keeps busy, with
sessions opened and closed or frames of one row, makes every step of everybody take longer.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from cloud_server.core.actions import Identity
from wire.codec import MessageType

MAX_FRAMES = 8
"""Dealt with in one go; about half a millisecond of one-row frames, as long as a short step."""

MAX_S = 0.0005
_COSTLY = (bytes([MessageType.OPEN]), bytes([MessageType.CLOSE]))

OVER_QUOTA_S = 0.002
"""What a refusal by a quota counts, more than it takes: whoever asks on and on asks rarely then."""

LIMITED_S = 10.0
"""For so long after a refusal by a quota,"""

LIMITED_COST = 4.0
"""all that a name does counts so many times what it takes: a quarter of the loop beside others
becomes a sixteenth, which the steps of others hardly feel."""

PING_S = 0.0001
"""About what a ping and its pong cost."""

_AFTERMATH = 2.0
"""A session that opens or ends costs the engine's thread later what it costs the loop now."""

BURST_S = 0.01
"""What a device may use at once, after it used little: some twenty verifications."""

MOST_DEBT_S = 0.25
"""What the links of one address may owe together; at a quarter, a pause of a second. Links that owe
as much as that come back all at once, so who met a quota may owe as many times as much as he
pays."""


def cost_s(frame: bytes | str, seconds: float) -> float:
    """What a frame costs everybody that took the loop so long."""
    is_costly = frame[:1] in _COSTLY
    return _AFTERMATH * seconds if is_costly else seconds


class Allowance:
    """Seconds of the loop that were not used yet: `share` of the time, up to a burst."""

    def __init__(self, share: float, now: float) -> None:
        self._share = share
        self._room_s = BURST_S
        self._counted_s = now

    def spend(self, used_s: float, now: float, price: float = 1.0) -> float:
        """Count what was used, so many times; returns the pause after which it is within the share
        again."""
        earned_s = (now - self._counted_s) * self._share
        self._counted_s = now
        room_s = min(BURST_S, self._room_s + earned_s) - price * used_s
        self._room_s = max(-price * MOST_DEBT_S, room_s)
        return max(0.0, -self._room_s / self._share)


@dataclass
class Shares:
    """The devices of a cloud among which the loop is shared. `share` 1: it is not."""

    share: float
    clock: Callable[[], float]
    num_links: Counter[Identity] = field(default_factory=Counter)
    num_lanes: int = 0
    """Links that help another one of their device, and are nobody else."""
    _allowances: dict[Identity, Allowance] = field(default_factory=dict)
    _limited_until_s: dict[Identity, float] = field(default_factory=dict)

    def enter(self, identity: Identity) -> Allowance:
        """A link begins; returns its own allowance."""
        self.num_links[identity] += 1
        now = self.clock()
        self._allowances.setdefault(identity, Allowance(self.share, now))
        return Allowance(self.share, now)

    def leave(self, identity: Identity) -> None:
        """A link has ended."""
        self.num_links[identity] -= 1
        if self.num_links[identity] <= 0:
            del self.num_links[identity]
            del self._allowances[identity]
            self._limited_until_s.pop(identity, None)

    def limited(self, identity: Identity) -> None:
        """A quota has refused something to one who has links."""
        self._limited_until_s[identity] = self.clock() + LIMITED_S

    def pause_s(self, identity: Identity, own: Allowance, used_s: float) -> float:
        """How long a link that used so much must leave the loop to others, if there are any."""
        now = self.clock()
        is_limited = now < self._limited_until_s.get(identity, now)
        price = LIMITED_COST if is_limited else 1.0
        pause_s = own.spend(used_s, now, price)
        of_all_s = self._allowances[identity].spend(used_s, now, price)
        if self.share >= 1 or self.num_links.total() - self.num_lanes < 2:
            return 0.0
        return max(pause_s, of_all_s) if len(self.num_links) > 1 else pause_s


class Turns:
    """One link's turns: after so many frames, or so much time, others have theirs."""

    def __init__(self, shares: Shares, identity: Identity) -> None:
        self._shares = shares
        self._identity = identity
        self._own = shares.enter(identity)
        self._is_lane = False
        self._num_frames = 0
        self._used_s = 0.0

    async def take(self, used_s: float) -> None:
        """One more frame was dealt with, and took so long."""
        self._num_frames += 1
        self._used_s += used_s
        if self._num_frames >= MAX_FRAMES or self._used_s >= MAX_S:
            pause_s = self._shares.pause_s(self._identity, self._own, self._used_s)
            self._num_frames, self._used_s = 0, 0.0
            await asyncio.sleep(pause_s)

    def belong_to(self, identity: Identity) -> None:
        """The link has shown whose it is: it counts there, and no more under its address."""
        if identity == self._identity:
            return
        own = self._shares.enter(identity)
        self._shares.leave(self._identity)
        self._identity, self._own = identity, own

    def limited(self) -> None:
        """A quota has refused the link something."""
        self._shares.limited(self._identity)

    def help(self) -> None:
        """The link is a further one of its device."""
        self._is_lane = True
        self._shares.num_lanes += 1

    def end(self) -> None:
        """The link has ended."""
        self._shares.num_lanes -= self._is_lane
        self._shares.leave(self._identity)

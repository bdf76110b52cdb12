"""What may be asked for beside room: waits, rows of a day, and frames that are not answered."""

from cloud_server.core.admission import AdmissionError, over_quota
from cloud_server.core.config import MAX_CONNECTION_FRAMES, MAX_SESSION_FRAMES, CoreConfig
from cloud_server.core.links import Link
from cloud_server.core.names.people import People, name_in
from cloud_server.core.names.quota import QuotaKind, refusal_of
from cloud_server.core.scheduling.pace import Pace
from cloud_server.core.session import Session
from cloud_server.core.tally import Tally
from wire.errors import FaultCode


class Demand:
    """Looks at what waits, in all and of whoever asks."""

    def __init__(self, config: CoreConfig, tally: Tally, pace: Pace, people: People) -> None:
        self._config = config
        self._tally = tally
        self._pace = pace
        self._people = people

    def check_new(self, link: Link, now: float) -> None:
        """Refuse a new session whose rows may not run today, or would wait too long.

        Raises:
            AdmissionError: that is so.
        """
        self.check_today(link, 1, now)
        self._check_rate(link, now)
        self._check_wait(link)

    def check_today(self, link: Link, num_rows: int, now: float) -> None:
        """Refuse rows that a name may not have today any more.

        Raises:
            AdmissionError: that is so.
        """
        quota, name = self._people.quota_of(link.identity), name_in(link.identity)
        if name is None or quota.tokens_per_day is None:
            return
        num_rows += self._tally.of_identity(link.identity).num_queued_tokens
        unix_s = self._people.unix_s(now)
        refusal = self._people.usage.refuse_rows(name, quota, num_rows, unix_s)
        if refusal is not None:
            raise over_quota(refusal)

    def too_many_frames(self, link: Link, session: Session) -> str | None:
        """Why a session's last frame is one too many, if it is."""
        if session.num_queued_frames > MAX_SESSION_FRAMES:
            return f"expected at most {MAX_SESSION_FRAMES} frames of a session to wait"
        if self._tally.of_connection(link.connection).num_queued_frames > MAX_CONNECTION_FRAMES:
            return f"expected at most {MAX_CONNECTION_FRAMES} frames of a connection to wait"
        return None

    def _check_rate(self, link: Link, now: float) -> None:
        """Refuse what would wait too long behind the rows of its own name."""
        quota, name = self._people.quota_of(link.identity), name_in(link.identity)
        if name is None or quota.rows_per_s is None:
            return
        num_queued = self._tally.of_identity(link.identity).num_queued_tokens
        wait_s = self._people.usage.wait_s(name, quota, num_queued, now)
        if wait_s > self._config.queue_deadline_s:
            got = f"{num_queued} rows wait, which takes {wait_s:.0f} s"
            raise over_quota(refusal_of(name, quota, QuotaKind.ROWS_PER_S, got, wait_s))

    def _check_wait(self, link: Link) -> None:
        """Refuse what would wait too long for its first rows, in turns with all that waits now."""
        tally = self._tally
        own_turns = tally.of_identity(link.identity).num_waiting + 1
        num_turns = min(tally.total.num_waiting, own_turns * len(tally.identities))
        # A turn is a step at the most; behind it are the rows that do not come before the new ones.
        num_rows = min(tally.total.num_queued_tokens, num_turns * self._pace.budget_tokens)
        wait_s = self._pace.run_s(num_rows)
        if wait_s > self._config.queue_deadline_s:
            reason = f"expected rows to wait {self._config.queue_deadline_s:g} s at most"
            raise AdmissionError(FaultCode.DEADLINE_EXCEEDED, f"{reason}, not {wait_s:.0f} s")

"""Which message is legal when, for both sides of a connection (rules W2, W10, W15 to W23).

Both classes only check and remember: a caller tells them every message that it is about to send
and every message that it got, in order. An error leaves the state as it was.
"""

from dataclasses import replace
from enum import Enum
from typing import Final

from wire.codec import MessageSide, side_of
from wire.credit import CreditGiver, CreditTaker
from wire.errors import FaultCode, LocalProtocolError, RemoteProtocolError
from wire.handshake import check_welcome
from wire.limits import RowLimits
from wire.messages import (
    NO_SESSION,
    Ability,
    Close,
    Codec,
    Credit,
    Fault,
    Hello,
    Join,
    Joined,
    Message,
    Open,
    Opened,
    Piece,
    Reply,
    SessionId,
    States,
    Trace,
    Welcome,
)


class Phase(Enum):
    """HELLO until the handshake is over, CLOSED after a connection fault or a lost socket.

    A further socket of a device, on which nothing but pieces goes, is a LANE after its own.
    """

    HELLO = "hello"
    OPEN = "open"
    LANE = "lane"
    CLOSED = "closed"


class DeviceConnection:
    """The device's view: its phase, its live sessions and the rows it may still send."""

    def __init__(self) -> None:
        self.phase = Phase.HELLO
        self.rows: RowLimits | None = None
        self._hello: Hello | None = None
        self._credit = CreditTaker(0)
        self._num_taps: dict[SessionId, int] = {}
        """Of live sessions."""
        self._last_session = NO_SESSION

    @property
    def num_available_tokens(self) -> int:
        """Rows that may be sent now without more credit."""
        return self._credit.num_available

    def is_live(self, session: SessionId) -> bool:
        """Whether the session was opened here and neither closed nor faulted since."""
        return session in self._num_taps

    def num_taps(self, session: SessionId) -> int | None:
        """How many rows stand behind each deep row of a session; None where it is over."""
        return self._num_taps.get(session)

    def send(self, message: Message) -> None:
        """Check a message that is about to be sent, and count it as sent.

        Raises:
            LocalProtocolError: the message is not the device's, not of this phase, over the
                credit or the frame limit, or about a session that is not live.
        """
        match message:
            case Hello() if self.phase is Phase.HELLO and self._hello is None:
                self._hello = message
            case Open() if self.phase is Phase.OPEN:
                self._send_open(message)
            case States() if self.phase is Phase.OPEN:
                self._send_states(message)
            case Close() if self.phase is Phase.OPEN:
                self._num_taps.pop(message.session, None)
            case Trace() if self.phase is Phase.OPEN and _has_traces(self._row_limits().codecs):
                pass
            case _:
                raise LocalProtocolError(FaultCode.BAD_FRAME, _out_of_place(message, self.phase))

    def receive(self, message: Message) -> None:
        """Check a message of the cloud, and take in what it changes.

        Opened, Reply and Fault of a session that is no longer live may cross with a Close and are
        legal; the caller ignores them.

        Raises:
            RemoteProtocolError: the message is not the cloud's, not of this phase, about a
                session that was never opened, or with rows of another shape.
        """
        match message:
            case Fault() if self.phase is not Phase.CLOSED:
                self._receive_fault(message)
            case Welcome() if self.phase is Phase.HELLO and self._hello is not None:
                self.rows = check_welcome(self._hello, message)
                self._credit = CreditTaker(message.credit_limit_tokens)
                self.phase = Phase.OPEN
            case Opened() | Reply() if self.phase is Phase.OPEN:
                self._check_known(message.session)
                if isinstance(message, Reply):
                    self._row_limits().check(message, self._num_taps.get(message.session))
            case Credit() if self.phase is Phase.OPEN:
                self._credit.receive(message)
            case _:
                raise RemoteProtocolError(FaultCode.BAD_FRAME, _out_of_place(message, self.phase))

    def close(self) -> None:
        """The socket is gone."""
        self.phase = Phase.CLOSED
        self._num_taps.clear()

    def _send_open(self, message: Open) -> None:
        if message.session <= self._last_session:
            reason = f"expected a session above {self._last_session}, got {message.session}"
            raise LocalProtocolError(FaultCode.BAD_FRAME, reason)
        _check_taps(message, self._row_limits().codecs, LocalProtocolError)
        self._last_session = message.session
        self._num_taps[message.session] = message.taps.bit_count()

    def _send_states(self, states: States) -> None:
        if states.session not in self._num_taps:
            reason = f"expected a live session, got {states.session}"
            raise LocalProtocolError(FaultCode.UNKNOWN_SESSION, reason)
        try:
            self._row_limits().check(states)
        except RemoteProtocolError as error:
            raise LocalProtocolError(error.code, error.message) from error
        self._credit.send(states.num_rows)

    def _receive_fault(self, fault: Fault) -> None:
        if fault.session == NO_SESSION:
            self.close()
            return
        self._check_known(fault.session)
        self._num_taps.pop(fault.session, None)

    def _check_known(self, session: SessionId) -> None:
        if not NO_SESSION < session <= self._last_session:
            reason = f"expected a session of 1..{self._last_session}, got {session}"
            raise RemoteProtocolError(FaultCode.UNKNOWN_SESSION, reason)

    def _row_limits(self) -> RowLimits:
        assert self.rows is not None, "the handshake is over"
        return self.rows


class CloudConnection:
    """The cloud's view: its phase, the numbers of sessions used up, and outstanding rows."""

    def __init__(self, rows: RowLimits, window_tokens: int) -> None:
        self.phase = Phase.HELLO
        self._rows = rows
        self._credit: Final = CreditGiver(window_tokens)
        self._last_session = NO_SESSION

    @property
    def codecs(self) -> int:
        """The set of codecs and abilities that both sides know, once a Hello has come."""
        return self._rows.codecs

    def was_opened(self, session: SessionId) -> bool:
        """Whether the number was used for a session here, live or not (rule W15)."""
        return NO_SESSION < session <= self._last_session

    def would_take(self, states: States) -> bool:
        """Whether `receive` would take these rows; nothing is counted."""
        if self.phase is not Phase.OPEN or states.num_rows > self._credit.num_available:
            return False
        try:
            self._rows.check(states)
        except RemoteProtocolError:
            return False
        return True

    def receive(self, message: Message) -> None:
        """Check a message of the device, and count what it uses up.

        Raises:
            RemoteProtocolError: the message is not the device's, not of this phase, over the
                credit, of another shape, or opens a number used before.
        """
        match message:
            case Hello() if self.phase is Phase.HELLO:
                self._rows = replace(self._rows, codecs=message.codecs & self._rows.codecs)
            case Join() if self.phase is Phase.HELLO:
                pass
            case Piece() if self.phase is Phase.LANE:
                pass
            case Open() if self.phase is Phase.OPEN:
                if message.session <= self._last_session:
                    reason = f"expected a session above {self._last_session}, got {message.session}"
                    raise RemoteProtocolError(FaultCode.BAD_FRAME, reason)
                _check_taps(message, self._rows.codecs, RemoteProtocolError)
                self._last_session = message.session
            case States() if self.phase is Phase.OPEN:
                self._rows.check(message)
                self._credit.receive(message.num_rows)
            case Close() if self.phase is Phase.OPEN:
                pass
            case Trace() if self.phase is Phase.OPEN and _has_traces(self._rows.codecs):
                pass
            case _:
                raise RemoteProtocolError(FaultCode.BAD_FRAME, _out_of_place(message, self.phase))

    def send(self, message: Message) -> None:
        """Check a message that is about to be sent.

        Raises:
            LocalProtocolError: the message is not the cloud's or not of this phase.
        """
        if side_of(message) is MessageSide.DEVICE or self.phase is Phase.CLOSED:
            raise LocalProtocolError(FaultCode.BAD_FRAME, _out_of_place(message, self.phase))
        is_greeting = isinstance(message, Welcome | Joined)
        place = Phase.HELLO if is_greeting else Phase.OPEN
        if not isinstance(message, Fault) and self.phase is not place:
            raise LocalProtocolError(FaultCode.BAD_FRAME, _out_of_place(message, self.phase))
        if is_greeting:
            self.phase = Phase.LANE if isinstance(message, Joined) else Phase.OPEN
        if isinstance(message, Fault) and message.session == NO_SESSION:
            self.phase = Phase.CLOSED

    def give_back(self, num_rows: int) -> Credit | None:
        """Rows were computed, dropped or refused; the Credit to send now, if one is due."""
        return self._credit.give_back(num_rows)

    def close(self) -> None:
        """The socket is gone."""
        self.phase = Phase.CLOSED


def _check_taps(
    message: Open, codecs: int, error: type[LocalProtocolError | RemoteProtocolError]
) -> None:
    """Taps are asked for only where both sides have said that they know them (rule W38)."""
    if message.taps and not codecs >> Codec.TAPPED & 1:
        raise error(FaultCode.BAD_FRAME, "expected an Open without taps on this connection")


def _has_traces(codecs: int) -> bool:
    """Whether both sides have said that they know them (rule W52)."""
    return bool(codecs >> Ability.TRACES & 1)


def _out_of_place(message: Message, phase: Phase) -> str:
    return f"{type(message).__name__} of the {side_of(message).value} has no place in {phase.name}"

"""Where each session's cache is, and how it gets from the engine to host memory and back.

What the core counts as free is free once the commands that were asked for before are done, as
everywhere in the core. A copy takes several steps, though, so a session that was let in while
another one leaves may have to wait until that one has left: its sequence is opened, and its rows
run, when the engine has the room. Sessions wait for it in the order in which they were let in.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from cloud_server.core.actions import (
    OpenSequence,
    RestoreSequence,
    SaveSequence,
    SequenceHandle,
)
from cloud_server.core.saving.policy import Kept, whose_copies_go
from cloud_server.core.scheduling.kv_accounting import KvAccounting
from cloud_server.core.session import Home, Session
from cloud_server.core.step_book import StepBook


@dataclass(slots=True)
class _Copy:
    """Positions of a session in host memory, or on the way there."""

    session: Session
    num_tokens: int
    is_whole: bool = False
    is_kept: bool = True
    """Whether its session may still need it."""
    num_readers: int = 0
    """Sessions that are to be filled from it."""


@dataclass(slots=True)
class _Awaited:
    """A session with a reservation whose sequence cannot be opened yet."""

    session: Session
    command: OpenSequence
    fork_of: Session | None = None
    """It begins as a copy of this one, which is in the engine and does not go on before that."""
    copy: _Copy | None = None
    """It is to be filled from here."""


@dataclass(slots=True)
class _Transfer:
    """What is being copied: out of the engine, or with `source` back into it."""

    session: Session
    end: int
    source: _Copy | None = None
    done: int = 0


class Homes:
    """Moves sessions between engine and host memory; decides nothing about who goes."""

    def __init__(self, accounting: KvAccounting, steps: StepBook, host_tokens: int) -> None:
        self._accounting = accounting
        self._steps = steps
        self._host_tokens = host_tokens
        self._awaited: dict[SequenceHandle, _Awaited] = {}
        self._copies: dict[SequenceHandle, _Copy] = {}
        self._transfers: dict[SequenceHandle, _Transfer] = {}
        self._over: dict[SequenceHandle, int] = {}
        """Sessions that have ended before they were forked, and what they take of the engine."""
        self._freed: list[Session] = []
        """Their rows may run from the next step on."""
        self._leaving_tokens = 0
        """Reserved by nobody any more, and not free in the engine yet."""
        self._awaited_tokens = 0
        """Reserved, and of no sequence yet."""
        self.held_tokens = 0
        """Positions in host memory, in whole blocks."""
        self.num_saved = 0
        self.num_restored = 0

    @property
    def has_work(self) -> bool:
        """Whether something is to be copied, or a session's rows may run again."""
        has_rows = any(session.is_waiting for session in self._freed)
        return bool(self._transfers) or has_rows or self._next_placed() is not None

    @property
    def num_copies(self) -> int:
        """Sessions whose cache is in host memory, or on the way there or back."""
        return sum(copy.is_kept for copy in self._copies.values())

    def open(self, session: Session, source: Session | None = None, fork_tokens: int = 0) -> None:
        """Have a new session's sequence opened as soon as the engine has its room.

        Rows of the `source` that it begins as a copy of may have to wait as well.
        """
        fork_of, copy = (None, None) if source is None else self._origin(source)
        handle, max_tokens = session.handle, session.max_tokens
        if fork_of is None:
            command = OpenSequence(handle, max_tokens)
        else:
            command = OpenSequence(handle, max_tokens, fork_of.handle, fork_tokens)
        self._await(_Awaited(session, command, fork_of, copy if fork_tokens else None))

    def can_fork(self, source: Session) -> bool:
        """Whether a session may begin as a copy of this one. It may not while that waits to be made
        of one that is over: the engine would have to keep what is counted as free."""
        origin, _ = self._origin(source)
        return origin is None or origin.handle not in self._over

    def come_back(self, session: Session) -> None:
        """A session in host memory has a reservation again: have it filled from its copy."""
        command = OpenSequence(session.handle, session.max_tokens)
        self._await(_Awaited(session, command, copy=self._copies[session.handle]))

    def leave(self, session: Session) -> None:
        """Copy an idle session to host memory, in pieces, and give its reservation back now."""
        assert session.home is Home.ENGINE, "a copy is made of what is in the engine"
        handle, num_tokens = session.handle, session.cached_tokens
        self._leaving_tokens += self._accounting.held(handle)
        self._accounting.release(handle)
        self._copies[handle] = _Copy(session, num_tokens)
        self.held_tokens += self._accounting.charge(num_tokens)
        self._transfers[handle] = _Transfer(session, num_tokens)
        session.home = Home.LEAVING

    def turn_back(self, session: Session) -> None:
        """Let a session that was coming back stay in host memory, without its reservation."""
        self._quit_engine(session)
        self._accounting.release(session.handle)
        session.home = Home.HOST

    def end(self, session: Session) -> None:
        """Forget a session, wherever it is, before its reservation is given back."""
        copy = self._copies.get(session.handle)
        self._freed = [each for each in self._freed if each is not session]
        if session.home not in {Home.LEAVING, Home.HOST}:
            self._quit_engine(session)
        if copy is not None:
            copy.is_kept = False
            self._drop_if_unread(copy)

    def advance(self, budget_tokens: int) -> list[Session]:
        """Have up to so many positions copied with the next step, in whole blocks but for the last
        of a session.

        Returns:
            The sessions whose rows may run from this step on.
        """
        self._place()
        while self._transfers:
            transfer = next(iter(self._transfers.values()))
            num_tokens = transfer.end - transfer.done
            if num_tokens > budget_tokens:
                num_tokens = self._accounting.whole_blocks(budget_tokens)
            if num_tokens < 1:
                break
            budget_tokens -= num_tokens
            self._copy(transfer, num_tokens)
        freed, self._freed = self._freed, []
        return freed

    def forget_all(self) -> None:
        """The engine is gone, and every copy with it; its sessions have been ended."""
        self._awaited.clear()
        self._transfers.clear()
        self._copies.clear()
        self._over.clear()
        self._freed.clear()
        self._leaving_tokens = self._awaited_tokens = self.held_tokens = 0

    # Room in host memory

    @property
    def savable_tokens(self) -> int:
        """How much of host memory can be had, if all that nobody waits for is dropped."""
        return self._host_tokens - self.held_tokens + sum(each.num_tokens for each in self._kept())

    @contextlib.contextmanager
    def spared(self, session: Session | None) -> Iterator[None]:
        """While room is made for a session, what it is to be filled from is not dropped."""
        copy = None if session is None else self._origin(session)[1]
        if copy is not None:
            copy.num_readers += 1
        try:
            yield
        finally:
            if copy is not None:
                copy.num_readers -= 1

    def is_copyable(self, session: Session) -> bool:
        """Whether the engine holds something of a session that may be copied."""
        is_here = session.home is Home.ENGINE and session.handle not in self._copies
        return is_here and session.has_run and session.is_quiet and not session.num_holds

    def is_away(self, session: Session) -> bool:
        """Whether a session waits to be filled from its own copy, or is being filled."""
        is_coming = session.home in {Home.AWAITED, Home.RETURNING}
        return is_coming and session.handle in self._copies

    def copied_tokens(self, session: Session) -> int:
        """What a copy of it takes of host memory."""
        return self._accounting.charge(session.cached_tokens)

    def dropped_for(self, session: Session) -> list[SequenceHandle] | None:
        """Whose copies have to go so that this one fits; None if that is not to be had."""
        num_tokens = self.copied_tokens(session)
        short_tokens = self.held_tokens + num_tokens - self._host_tokens
        own = Kept(session.handle, session.identity, num_tokens, session.quiet_since_s)
        dropped = whose_copies_go(self._kept(), own, short_tokens)
        return None if dropped is None else [each.handle for each in dropped]

    def _kept(self) -> Iterator[Kept]:
        """The copies that nobody waits for."""
        for handle, copy in self._copies.items():
            one = copy.session
            if one.home is Home.HOST and one.is_quiet and copy.is_kept and not copy.num_readers:
                charge = self._accounting.charge(copy.num_tokens)
                yield Kept(handle, one.identity, charge, one.quiet_since_s)

    # How it is done

    def _origin(self, source: Session) -> tuple[Session | None, _Copy | None]:
        """What holds a session's positions: a sequence of the engine, or a copy.

        One that is still to be opened or filled holds what it is made of; an empty one nothing.
        """
        awaited = self._awaited.get(source.handle)
        if awaited is not None:
            return awaited.fork_of, awaited.copy
        transfer = self._transfers.get(source.handle)
        if transfer is not None and transfer.source is not None:
            return None, transfer.source
        if source.home is Home.ENGINE:
            return source, None
        return None, self._copies[source.handle]

    def _await(self, awaited: _Awaited) -> None:
        session = awaited.session
        session.home = Home.AWAITED
        if awaited.copy is not None:
            awaited.copy.num_readers += 1
        if awaited.fork_of is not None:
            awaited.fork_of.num_holds += 1
        self._awaited[session.handle] = awaited
        self._awaited_tokens += self._accounting.held(session.handle)
        self._place()

    def _next_placed(self) -> _Awaited | None:
        """The session that has waited longest, if its sequence can be opened now."""
        awaited = next(iter(self._awaited.values()), None)
        if awaited is None or (awaited.copy is not None and not awaited.copy.is_whole):
            return None
        opened_tokens = self._accounting.reserved_tokens - self._awaited_tokens
        free_tokens = self._accounting.capacity_tokens - opened_tokens - self._leaving_tokens
        charge = self._accounting.held(awaited.session.handle)
        return awaited if charge <= free_tokens else None

    def _place(self) -> None:
        while (awaited := self._next_placed()) is not None:
            self._open_now(awaited)

    def _open_now(self, awaited: _Awaited) -> None:
        session, copy = awaited.session, awaited.copy
        self._stop_awaiting(awaited)
        self._steps.open(awaited.command)
        if copy is None:
            session.home = Home.ENGINE
            self._free(session)
        else:
            session.home = Home.RETURNING
            self._transfers[session.handle] = _Transfer(session, session.cached_tokens, copy)
        self._let_go_on(awaited.fork_of)

    def _stop_awaiting(self, awaited: _Awaited) -> None:
        del self._awaited[awaited.session.handle]
        self._awaited_tokens -= self._accounting.held(awaited.session.handle)

    def _let_go_on(self, source: Session | None) -> None:
        """A fork has been asked for, or will not be: its source may go on, or go."""
        if source is None:
            return
        source.num_holds -= 1
        if source.num_holds:
            return
        self._free(source)
        if source.handle in self._over:
            self._leaving_tokens -= self._over.pop(source.handle)
            self._steps.release(source.handle)

    def _free(self, session: Session) -> None:
        if not session.is_quiet:
            self._freed.append(session)

    def _copy(self, transfer: _Transfer, num_tokens: int) -> None:
        """Have the next positions of it copied with the next step."""
        session, source = transfer.session, transfer.source
        handle, begin = session.handle, transfer.done
        transfer.done += num_tokens
        is_last = transfer.done == transfer.end
        if is_last:
            del self._transfers[handle]
        if source is None:
            self._steps.copy(SaveSequence(handle, begin, transfer.done, is_last))
            if is_last:
                self._has_left(session)
            return
        place = source.session.handle
        self._steps.copy(RestoreSequence(handle, place, begin, transfer.done))
        if is_last:
            self._has_returned(session, source)

    def _has_left(self, session: Session) -> None:
        copy = self._copies[session.handle]
        copy.is_whole = True
        session.home = Home.HOST
        self.num_saved += 1
        self._leaving_tokens -= self._accounting.charge(session.max_tokens)
        self._place()

    def _has_returned(self, session: Session, source: _Copy) -> None:
        session.home = Home.ENGINE
        self.num_restored += 1
        source.num_readers -= 1
        if source.session is session:
            source.is_kept = False
        self._drop_if_unread(source)
        self._free(session)

    def _quit_engine(self, session: Session) -> None:
        """Free a session's place in the engine, or the one that it waits for or is filled in."""
        awaited = self._awaited.get(session.handle)
        transfer = self._transfers.pop(session.handle, None)
        copy = transfer.source if transfer is not None else None
        if awaited is not None:
            copy = awaited.copy
            self._stop_awaiting(awaited)
            self._let_go_on(awaited.fork_of)
        elif session.num_holds:
            self._over[session.handle] = self._accounting.held(session.handle)
            self._leaving_tokens += self._over[session.handle]
        else:
            self._steps.release(session.handle)
        if copy is not None:
            copy.num_readers -= 1
            self._drop_if_unread(copy)

    def _drop_if_unread(self, copy: _Copy) -> None:
        """Free a copy that nobody needs any more, or stop making it."""
        handle = copy.session.handle
        if copy.is_kept or copy.num_readers:
            return
        if not copy.is_whole:
            del self._transfers[handle]
            self._leaving_tokens -= self._accounting.charge(copy.session.max_tokens)
            self._steps.release(handle)
        del self._copies[handle]
        self.held_tokens -= self._accounting.charge(copy.num_tokens)
        self._steps.drop_copy(handle)

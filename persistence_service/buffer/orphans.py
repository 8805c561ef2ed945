"""Tasks whose session is not stored: how long they wait, and how it is found that somebody else stored it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import structlog

from persistence_service.buffer.buffer import RecordBuffer
from persistence_service.buffer.parent_search import ParentSearch
from persistence_service.buffer.policy import FlushPolicy
from persistence_service.buffer.room import Room
from persistence_service.buffer.set_aside import SetAside
from persistence_service.buffer.timing import Timing
from persistence_service.errors import QueryTimeout
from persistence_service.storage.backend import StorageBackend
from persistence_service.storage.collections import Collection
from persistence_service.storage.query import COUNT, OneOf

_log = structlog.get_logger(__name__)
_PARENTS_AT_ONCE = 1000
_MEANWHILE = 4


class Patience:
    """Seconds during which the backend was available, by a clock that stands still in an outage.

    It stands still too as long as others, of whom a session may come, can't be asked.
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._before_s = 0.0
        self._since_s: float | None = None
        self._is_available = False
        self.are_all_there = True
        self.on_return: Callable[[], None] = lambda: None

    @property
    def now_s(self) -> float:
        """What the clock shows."""
        return self._before_s + (0.0 if self._since_s is None else self._timing.monotonic() - self._since_s)

    def go_on(self) -> None:
        """The backend is available."""
        self._is_available = True
        self._run_or_stand()

    def pause(self) -> None:
        """It is not."""
        self._is_available = False
        self._run_or_stand()

    def note_others(self, *, are_all_there: bool) -> None:
        """Whether all those can be asked who may have accepted a session; `on_return` is called when they can again."""
        are_back = are_all_there and not self.are_all_there
        self.are_all_there = are_all_there
        self._run_or_stand()
        if are_back:
            self.on_return()

    def _run_or_stand(self) -> None:
        if self._is_available and self.are_all_there:
            if self._since_s is None:
                self._since_s = self._timing.monotonic()
        else:
            self._before_s, self._since_s = self.now_s, None


class Orphans:
    """Lets the buffer's orphans go on when their session is stored, or gives them up. They hold nobody up.

    With others who may have accepted a session, nobody is given up before these were asked. While one of them can't be, those
    for whom there is no room go all the same, and `are_to_wait` says that they are no dead letters, but wait in the journal.
    """

    def __init__(
        self,
        tasks: RecordBuffer[Any],
        *,
        parents: Collection[Any],
        backend: StorageBackend,
        policy: FlushPolicy,
        room: Room,
        set_aside: SetAside,
        timing: Timing,
        is_replaying: Callable[[], bool],
    ) -> None:
        self._tasks = tasks
        self._parents = parents
        self._backend = backend
        self._policy = policy
        self._room = room
        self._set_aside = set_aside
        self._timing = timing
        self._is_replaying = is_replaying
        self._sought_s = timing.monotonic()
        self._stored: list[str] = []
        self.patience = Patience(timing)
        self.search = ParentSearch(timing)
        self.are_to_wait = False
        self._is_unsure = False

    @property
    def due_in_s(self) -> float | None:
        """Seconds until something is to be done about them, None when there are none."""
        since = self._tasks.oldest_orphan_s
        if since is None:
            return None
        if self.search.has_ended:
            return 0.0
        to_seek = self._sought_s + self._policy.flush_interval_s - self._timing.monotonic()
        if self.search.is_running:  # its end makes something due, and until then nobody is given up
            return to_seek
        if self.search.is_in_vain and self.patience.are_all_there:
            return self.search.pause_s
        return min(to_seek, since - self._patience_ends_s)

    @property
    def _patience_ends_s(self) -> float:
        """Orphans since then, by the clock of patience, have waited long enough."""
        # Their session may be in the part of the journal that was not read yet, or with one who can't be asked.
        if self._is_replaying() or not self.patience.are_all_there:
            return float("-inf")
        return self.patience.now_s - self._policy.orphan_grace_s

    async def seek_parents(self, *, asked: bool) -> None:
        """Look for sessions that somebody else has stored: when a person `asked`, others were, and once in a flush interval."""
        now_s = self._timing.monotonic()
        has_ended = self.search.has_ended
        if not asked and not has_ended and now_s < self._sought_s + self._policy.flush_interval_s:
            return
        self._sought_s = now_s
        looked = await self._look()
        if has_ended:
            self.search.conclude(looked=looked)
            if not self.search.is_in_vain:
                self._set_aside.hasten()

    async def _look(self) -> bool:
        key = self._parents.key
        missing = self._tasks.missing_parents
        for start in range(0, len(missing), _PARENTS_AT_ONCE):
            among = (OneOf(key, missing[start : start + _PARENTS_AT_ONCE]),)
            try:
                stored = await self._backend.aggregate(self._parents, group_by=(key,), measure=(COUNT,), where=among)
            except QueryTimeout:
                _log.warning("flush.parents_not_found_in_time", missing=len(missing))
                return False
            self._stored.extend(group.keys[0] for group in stored)
        return True

    def note_stored(self, parents: Iterable[str]) -> None:
        """These sessions are stored; `adopt` acts on it."""
        self._stored.extend(parents)

    def adopt(self) -> None:
        """Orphans whose session came go on; those that waited too long, or for whom there is no room, give up.

        While others are being asked, there is some more room.
        """
        if self._stored:
            self._tasks.adopt(self._stored)
            self._stored.clear()
        room, room_bytes = self._room.aside
        give_up, ends_s = self._tasks.give_up, self._patience_ends_s
        self._is_unsure = give_up(ends_s, room=room, room_bytes=room_bytes, up_to=self.search.covers)
        refused = self._tasks.refused
        if self._is_unsure:
            most = 1 if self.search.is_in_vain else _MEANWHILE
            give_up(float("-inf"), room=most * room, room_bytes=most * room_bytes)
        self.are_to_wait = self.are_to_wait or self._tasks.refused > refused

    def ask_others(self) -> None:
        """Begin to ask them for the sessions that orphans wait for."""
        tasks, (room, room_bytes) = self._tasks, self._room.aside
        is_urgent = self._is_unsure or tasks.orphans > room or tasks.aside_bytes > room_bytes
        self.search.begin(tasks.missing_parents, number=tasks.last_orphan, is_urgent=is_urgent)

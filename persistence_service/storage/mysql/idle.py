"""The connections that nobody uses now, in the order in which they came back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from persistence_service.storage.mysql.connection import MysqlConnection


class IdleConnections:
    """The latest is taken first, so that those that are not needed grow old at the other end.

    Args:
        is_fit: whether a connection may be used again; others are closed instead of kept or given.
    """

    def __init__(self, is_fit: Callable[[MysqlConnection], bool]) -> None:
        self._is_fit = is_fit
        self._connections: deque[MysqlConnection] = deque()

    def __len__(self) -> int:
        return len(self._connections)

    def put(self, connection: MysqlConnection) -> None:
        """Keep it, or close it if it is not fit."""
        if self._is_fit(connection):
            self._connections.append(connection)
        else:
            connection.abandon()

    def take(self) -> MysqlConnection | None:
        """The one used last that is fit."""
        while self._connections:
            connection = self._connections.pop()
            if self._is_fit(connection):
                return connection
            connection.abandon()
        return None

    def take_oldest(self) -> MysqlConnection | None:
        """The one that was not used for longest."""
        return self._connections.popleft() if self._connections else None

    @property
    def oldest_s(self) -> float:
        """For how long that one was not used; 0 if there is none."""
        return self._connections[0].idle_s if self._connections else 0.0

    def drop(self, older_than_s: float | None = None) -> None:
        """Close those that are not fit any more, or too old."""
        for connection in list(self._connections):
            if self._is_fit(connection) and (older_than_s is None or connection.age_s <= older_than_s):
                continue
            self._connections.remove(connection)
            connection.abandon()

"""The connections that nobody uses now, in the order in which they came back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from persistence_service.storage.mysql.connection import MysqlConnection


class IdleConnections:
    """The latest is taken first, so that those that are not needed grow old at the other end."""

    def __init__(self) -> None:
        self._connections: deque[MysqlConnection] = deque()

    def __len__(self) -> int:
        return len(self._connections)

    def put(self, connection: MysqlConnection) -> None:
        self._connections.append(connection)

    def take(self) -> MysqlConnection | None:
        """The one used last of which nothing bad is known."""
        while self._connections:
            connection = self._connections.pop()
            if connection.is_usable:
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

    def drop(self, is_unwanted: Callable[[MysqlConnection], bool]) -> None:
        """Close those that are not wanted any more."""
        for connection in [connection for connection in self._connections if is_unwanted(connection)]:
            self._connections.remove(connection)
            connection.abandon()

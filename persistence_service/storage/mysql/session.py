"""What the sessions of this service are set to, whatever the server's own defaults are.

The migrations have texts of their own, which never change.
"""

from __future__ import annotations

from typing import Final

SQL_MODE: Final = "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
TIME_ZONE: Final = "+00:00"
ISOLATION: Final = "REPEATABLE READ"
LOCK_WAIT_S: Final = 5
COLLATION: Final = "/*!80017 utf8mb4_0900_bin *//*M!100200 utf8mb4_nopad_bin */"
"""Byte by byte, and blanks at the end count. Each of the two kinds of server reads the comment with its own name for it."""


def assignments(*, idle_s: int, table_wait_s: int) -> str:
    """What a SET needs for a session that is ended when it says nothing for `idle_s`.

    Nobody waits for a row for longer than `LOCK_WAIT_S`, nor for a table that somebody alters for longer than `table_wait_s`.
    """
    return (
        f"time_zone='{TIME_ZONE}', sql_mode='{SQL_MODE}', foreign_key_checks=1, "
        f"innodb_lock_wait_timeout={LOCK_WAIT_S}, lock_wait_timeout={table_wait_s}, wait_timeout={idle_s}"
    )

"""Privileges: those that the service needs, what SHOW GRANTS says, and what to grant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from persistence_service.storage.mysql.options import MysqlOptions

RUNNING = ("SELECT", "INSERT", "UPDATE", "DELETE")
MIGRATING = ("CREATE", "ALTER", "DROP", "INDEX", "REFERENCES")
_OF_ALL_TABLES = re.compile(r"GRANT (?P<privileges>.+?) ON (?P<name>\*|`(?:[^`]|``)+`|[^\s`.]+)\.\* TO ", re.IGNORECASE)
_ALL = "ALL PRIVILEGES"


def granted_on(database: str, grants: Iterable[str], *, ignore_case: bool = False) -> set[str]:
    """The privileges on every table of `database`; those on single tables or columns don't count.

    `ignore_case` is for servers that do so with names of databases.
    """
    found: set[str] = set()
    for grant in grants:
        match = _OF_ALL_TABLES.match(grant)
        if match is not None and _names(match["name"], database, re.IGNORECASE if ignore_case else re.NOFLAG):
            found.update(_privileges(match["privileges"]))
    return {*RUNNING, *MIGRATING} if _ALL in found else found


def grant_statement(options: MysqlOptions, privileges: Iterable[str]) -> str:
    """What gives them to the service's account; where it comes from is for its reader to say."""
    database = options.database.replace("`", "``")
    return f"GRANT {', '.join(privileges)} ON `{database}`.* TO '{options.user}'@…;"


def _privileges(text: str) -> Iterator[str]:
    for privilege in re.sub(r"\([^)]*\)", "()", text).split(","):
        if "(" not in privilege:
            yield privilege.strip().upper()


def _names(name: str, database: str, flags: re.RegexFlag) -> bool:
    """Whether it is any database, or that one, by a pattern as of LIKE."""
    plain = name[1:-1].replace("``", "`") if name.startswith("`") else name
    return plain == "*" or re.fullmatch(_as_expression(plain), database, flags) is not None


def _as_expression(pattern: str) -> str:
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    wild = {"%": ".*", "_": "."}
    return "".join(wild.get(part, re.escape(part[-1])) for part in parts)

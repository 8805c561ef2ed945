"""What the account may do, from its own grants."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from persistence_service.storage.mysql.diagnosis.host import Host
from persistence_service.storage.powers import Finding, Level

RUNNING = ("SELECT", "INSERT", "UPDATE", "DELETE")
MIGRATING = ("CREATE", "ALTER", "DROP", "INDEX", "REFERENCES")
_GRANT = re.compile(r"GRANT (?P<privileges>.+?) ON (?P<object>\S+) TO ", re.IGNORECASE)
_ALL = "ALL PRIVILEGES"


async def privilege_findings(host: Host) -> list[Finding]:
    """Whether it suffices for running, and for migrating."""
    granted = granted_on(host.options.database, (str(row[0]) for row in await host.rows("SHOW GRANTS")))
    return [
        _finding(host, "privileges", RUNNING, granted, Level.PROBLEM),
        _finding(host, "privileges to migrate", MIGRATING, granted, Level.WARNING),
    ]


def granted_on(database: str, grants: Iterable[str]) -> set[str]:
    """The privileges on every table of `database`; those on single tables or columns don't count."""
    found: set[str] = set()
    for grant in grants:
        match = _GRANT.match(grant)
        if match is not None and _concerns(match["object"], database):
            found.update(_privileges(match["privileges"]))
    return {*RUNNING, *MIGRATING} if _ALL in found else found


def _privileges(text: str) -> Iterator[str]:
    for privilege in re.sub(r"\([^)]*\)", "()", text).split(","):
        if "(" not in privilege:
            yield privilege.strip().upper()


def _concerns(granted_object: str, database: str) -> bool:
    """Whether it is all tables of that database: `*.*`, or `name.*`, where the name is a pattern as of LIKE."""
    name, _, table = granted_object.rpartition(".")
    if table != "*":
        return False
    return name == "*" or re.fullmatch(_as_expression(name.strip("`").replace("``", "`")), database) is not None


def _as_expression(pattern: str) -> str:
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    wild = {"%": ".*", "_": "."}
    return "".join(wild.get(part, re.escape(part[-1])) for part in parts)


def _finding(host: Host, name: str, needed: tuple[str, ...], granted: set[str], level: Level) -> Finding:
    missing = [privilege for privilege in needed if privilege not in granted]
    if not missing:
        return Finding(name, Level.OK, ", ".join(needed))
    account, database = host.options.user, host.options.database
    because = "" if level is Level.PROBLEM else "; the running service needs them only with storage.migrate_on_start"
    use = f"GRANT {', '.join(missing)} ON `{database}`.* TO '{account}'@…;"
    hint = use if level is Level.PROBLEM else f"Migrate with another account, or: {use}"
    return Finding(name, level, f"the account {account} lacks {', '.join(missing)}{because}", hint)

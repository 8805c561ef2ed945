"""What the account may do, from its own grants."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from persistence_service.errors import SchemaTooNew, StorageSetupError
from persistence_service.storage.mysql.diagnosis.host import Host
from persistence_service.storage.mysql.health import schema_versions
from persistence_service.storage.powers import Finding, Level
from persistence_service.storage.sql.migrate import version_problem

RUNNING = ("SELECT", "INSERT", "UPDATE", "DELETE")
MIGRATING = ("CREATE", "ALTER", "DROP", "INDEX", "REFERENCES")
_GRANT = re.compile(r"GRANT (?P<privileges>.+?) ON (?P<object>\S+) TO ", re.IGNORECASE)
_ALL = "ALL PRIVILEGES"


async def privilege_findings(host: Host) -> list[Finding]:
    """Whether it suffices for running, and for migrating."""
    granted = granted_on(host.options.database, (str(row[0]) for row in await host.rows("SHOW GRANTS")))
    return [_running(host, granted), await _migrating(host, granted)]


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


def _running(host: Host, granted: set[str]) -> Finding:
    missing = [privilege for privilege in RUNNING if privilege not in granted]
    if not missing:
        return Finding("privileges", Level.OK, ", ".join(RUNNING))
    detail = f"the account {host.options.user} lacks {', '.join(missing)}"
    return Finding("privileges", Level.PROBLEM, detail, _grant(host, missing))


async def _migrating(host: Host, granted: set[str]) -> Finding:
    name = "privileges to migrate"
    missing = [privilege for privilege in MIGRATING if privilege not in granted]
    if not missing:
        return Finding(name, Level.OK, ", ".join(MIGRATING))
    detail = f"the account {host.options.user} lacks {', '.join(missing)}"
    if host.connection is not None and host.has_database and not _is_due(await schema_versions(host.connection)):
        return Finding(name, Level.OK, f"{detail}, and needs them for a later schema only")
    remedy = f"Run `persistence-service migrate` with another account, or: {_grant(host, missing)}"
    return Finding(name, Level.WARNING, detail, remedy)


def _is_due(versions: list[str]) -> bool:
    try:
        return bool(version_problem(versions))
    except (SchemaTooNew, StorageSetupError):
        return False


def _grant(host: Host, privileges: list[str]) -> str:
    return f"GRANT {', '.join(privileges)} ON `{host.options.database}`.* TO '{host.options.user}'@…;"

"""What the account may do, from its own grants."""

from __future__ import annotations

from persistence_service.errors import SchemaTooNew, StorageSetupError
from persistence_service.storage.mysql.diagnosis.host import Host
from persistence_service.storage.mysql.grants import MIGRATING, RUNNING, grant_statement, granted_on
from persistence_service.storage.mysql.health import schema_versions
from persistence_service.storage.powers import Finding, Level
from persistence_service.storage.sql.migrate import version_problem


async def privilege_findings(host: Host) -> list[Finding]:
    """Whether it suffices for running, and for migrating."""
    grants = [str(row[0]) for row in await host.rows("SHOW GRANTS")]
    ignore_case = host.variables.get("lower_case_table_names", "0") != "0"
    granted = granted_on(host.options.database, grants, ignore_case=ignore_case)
    return [_running(host, granted), await _migrating(host, granted)]


def _running(host: Host, granted: set[str]) -> Finding:
    missing = [privilege for privilege in RUNNING if privilege not in granted]
    if not missing:
        return Finding("privileges", Level.OK, ", ".join(RUNNING))
    detail = f"the account {host.options.user} lacks {', '.join(missing)}"
    return Finding("privileges", Level.PROBLEM, detail, grant_statement(host.options, missing))


async def _migrating(host: Host, granted: set[str]) -> Finding:
    name = "privileges to migrate"
    missing = [privilege for privilege in MIGRATING if privilege not in granted]
    if not missing:
        return Finding(name, Level.OK, ", ".join(MIGRATING))
    detail = f"the account {host.options.user} lacks {', '.join(missing)}"
    if host.connection is not None and host.has_database and not _is_due(await schema_versions(host.connection)):
        return Finding(name, Level.OK, f"{detail}, and needs them for a later schema only")
    remedy = f"Run `persistence-service migrate` with another account, or: {grant_statement(host.options, missing)}"
    return Finding(name, Level.WARNING, detail, remedy)


def _is_due(versions: list[str]) -> bool:
    try:
        return bool(version_problem(versions))
    except (SchemaTooNew, StorageSetupError):
        return False

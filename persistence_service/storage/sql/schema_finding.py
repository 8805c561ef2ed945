"""What a check says of the schema's version, the same on every SQL database."""

from __future__ import annotations

from collections.abc import Sequence

from persistence_service.errors import SchemaTooNew, StorageSetupError, StorageUnavailable
from persistence_service.storage.powers import Finding, Level
from persistence_service.storage.sql.migrate import newest_version, version_problem


def schema_finding(versions: Sequence[str]) -> Finding:
    """The finding on a database that says it is of these versions; none if it says nothing."""
    try:
        problem = version_problem(versions)
    except SchemaTooNew as exc:
        return Finding(
            "schema", Level.PROBLEM, str(exc), "Run the version of the service that made it, or a later one."
        )
    except StorageSetupError as exc:
        return Finding("schema", Level.PROBLEM, str(exc), "Do what it says, then run this again.")
    except StorageUnavailable as exc:
        return Finding("schema", Level.NOT_CHECKED, str(exc))
    if problem:
        return Finding(
            "schema",
            Level.WARNING,
            f"of version {', '.join(versions) or 'none'}, {newest_version()} is needed",
            "Run `persistence-service migrate`, or start the service with storage.migrate_on_start.",
        )
    return Finding("schema", Level.OK, f"version {newest_version()}")

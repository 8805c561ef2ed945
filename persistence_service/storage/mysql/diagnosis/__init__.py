"""What is right and wrong with the servers, the account and the database, and what to do about it. Changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from persistence_service.storage.mysql.diagnosis.database import database_findings
from persistence_service.storage.mysql.diagnosis.group import group_findings
from persistence_service.storage.mysql.diagnosis.host import Host, reach
from persistence_service.storage.mysql.diagnosis.privileges import privilege_findings
from persistence_service.storage.mysql.diagnosis.server import server_findings
from persistence_service.storage.mysql.options import MysqlOptions
from persistence_service.storage.powers import Finding, Level

__all__ = ["diagnose"]

_PER_HOST = (server_findings, privilege_findings, group_findings)
_OF_HOST = "tls, version, clock, packet, durability, connections, session, writable, privileges, group"
_OF_DATABASE = "schema, tables, column types, indexes, foreign keys, collation, columns, unique keys, triggers"


async def diagnose(options: MysqlOptions) -> list[Finding]:
    """The findings on every host, then those on the database, which is looked at where it can be written."""
    hosts = await asyncio.gather(*(reach(options, address) for address in options.addresses))
    try:
        found = [await _host_findings(host) for host in hosts]
        reached = [host for host in hosts if host.connection is not None]
        main = next((host for host in reached if host.is_writable), next(iter(reached), None))
        if main is None:
            found.append([_not_checked(f"{_OF_HOST}, {_OF_DATABASE}")])
        elif not main.has_database:
            found.append([_not_checked(_OF_DATABASE)])
        else:
            found.append(await main.guarded("database", database_findings))
        return [finding for some in found for finding in some]
    finally:
        for host in hosts:
            if host.connection is not None:
                await host.connection.close()


async def _host_findings(host: Host) -> list[Finding]:
    found = list(host.findings)
    if host.connection is not None:
        for look in _PER_HOST:
            found += await host.guarded(look.__name__.removesuffix("_findings"), look)
    return _named(host, found)


def _named(host: Host, found: Sequence[Finding]) -> list[Finding]:
    """With the host's name before each detail, where there are several."""
    if len(host.options.addresses) == 1:
        return list(found)
    return [replace(finding, detail=f"{host.name}: {finding.detail}") for finding in found]


def _not_checked(names: str) -> Finding:
    return Finding("others", Level.NOT_CHECKED, names)

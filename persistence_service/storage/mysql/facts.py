"""What is known of a server: found by trying, so that forks, proxies and later versions are served too."""

from __future__ import annotations

from dataclasses import dataclass

from pymysql.constants import ER
from pymysql.err import MySQLError

from persistence_service.storage.mysql.wire import Wire

_NO_SUCH_TABLE = (ER.NO_SUCH_TABLE, ER.TABLEACCESS_DENIED_ERROR)  # parsed, then looked for


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """`limited_select` is format text: its `{statement}` is a SELECT *without* the word SELECT itself.

    (MySQL's limit is a hint right behind that word, MariaDB's a prefix before it.) `is_mariadb` is for people: nothing is
    decided by it. `row_alias` says whether `INSERT … AS incoming ON DUPLICATE KEY UPDATE` is understood.
    """

    version: str
    is_mariadb: bool
    max_packet_bytes: int
    row_alias: bool
    limited_select: str


async def find_facts(wire: Wire, query_timeout_s: float, known: ServerFacts | None = None) -> ServerFacts:
    """Ask the server; `known` spares the trials where it has the same version."""
    await wire.query("SELECT VERSION(), @@max_allowed_packet")
    version, max_packet_bytes = wire._result.rows[0]  # noqa: SLF001  # the driver gives it to its cursors alone
    if known is not None and (known.version, known.max_packet_bytes) == (version, max_packet_bytes):
        return known
    return ServerFacts(
        version=version,
        is_mariadb="mariadb" in version.lower(),
        max_packet_bytes=max_packet_bytes,
        row_alias=await _understands(
            wire,
            # EXPLAIN: never executed, even if somebody has such a table.
            "EXPLAIN INSERT INTO no_such_table (a) VALUES (1) AS incoming ON DUPLICATE KEY UPDATE a = incoming.a",
        ),
        limited_select=await _limited_select(wire, query_timeout_s),
    )


async def _limited_select(wire: Wire, limit_s: float) -> str:
    prefix = f"SET STATEMENT max_statement_time={limit_s} FOR SELECT"
    if await _understands(wire, f"{prefix} 1"):
        return f"{prefix} {{statement}}"
    if await _understands(wire, "SELECT @@max_execution_time"):
        return f"SELECT /*+ MAX_EXECUTION_TIME({max(1, round(limit_s * 1000))}) */ {{statement}}"
    return "SELECT {statement}"


async def _understands(wire: Wire, statement: str) -> bool:
    try:
        await wire.query(statement)
    except MySQLError as exc:
        if wire.closed:
            raise
        return exc.args[0] in _NO_SUCH_TABLE
    return True

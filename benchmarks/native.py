"""The reference for databases with a server: the database's own client loads the same rows from a prepared file.

The file has the very statements that the service would send, of a thousand rows each, every one in a transaction. So what is
compared is everything that the service does besides: HTTP, checking, journal, merging, and making the statements.
"""

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.load import cpu_of, data, task_items
from persistence_service.models.acceptance import Acceptance, accept_sessions, accept_tasks
from persistence_service.models.limits import Limits
from persistence_service.models.session import SessionRequest
from persistence_service.models.task import Task, TaskRequest
from persistence_service.storage.collections import ALL_COLLECTIONS, SESSIONS, TASKS
from persistence_service.storage.mysql import MysqlBackend
from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.mysql.literals import escape_for
from persistence_service.storage.mysql.pool import ConnectionPool
from persistence_service.storage.mysql.schema import MysqlSchema
from persistence_service.storage.mysql.upsert import Upsert
from tests.servers.run import ServerRun
from tests.servers.server import Server
from tests.servers.starting import start_private

_ROWS = 1000


@contextmanager
def running_server(kind: str, folder: Path) -> Iterator[Server]:
    """A private server with its data in `folder`, with the durable defaults it comes with."""
    server = start_private(ServerRun(folder, os.getpid()), kind)
    try:
        yield server
    finally:
        server.kill()


def measure_client(server: Server, rows: int, folder: Path) -> dict[str, Any]:
    """One load of `rows` tasks into a new database: rows, seconds, and the CPU seconds of the server and of the client."""
    database = server.new_database()
    try:
        file = folder / "rows.sql"
        asyncio.run(_prepare(server, database, rows, file))
        command = [*server.client(), "--default-character-set=utf8mb4", database]
        server_cpu = cpu_of(server.pid)
        before = os.times()
        started = time.perf_counter()
        with file.open("rb") as statements:
            subprocess.run(command, stdin=statements, check=True)
        seconds = time.perf_counter() - started
        after = os.times()
        client_cpu = after.children_user + after.children_system - before.children_user - before.children_system
        ((stored,),) = server.sql("SELECT COUNT(*) FROM translation_tasks", database)
        if stored != rows:
            raise SystemExit(f"the client stored {stored} of {rows} rows")
        return {
            "rows": rows,
            "stored_s": seconds,
            "own_cpu_s": client_cpu,
            "server_cpu_s": cpu_of(server.pid) - server_cpu,
        }
    finally:
        server.drop(database)


async def _prepare(server: Server, database: str, rows: int, file: Path) -> None:
    """The tables, the sessions in them, and the file of statements for the tasks."""
    now = time.time_ns() // 1000
    acceptance, limits = Acceptance(now, now), Limits()
    sessions, tasks = data()
    known = msgspec.convert([session | {"status": "processing"} for session in sessions], list[SessionRequest])
    records = accept_tasks(msgspec.convert(list(task_items(tasks, rows)), list[TaskRequest]), acceptance, limits)
    async with AsyncExitStack() as stack:
        backend, pool = MysqlBackend(server.options(database)), ConnectionPool(server.options(database))
        stack.push_async_callback(backend.close)
        await backend.open()
        await backend.migrate()
        await backend.write(SESSIONS, accept_sessions(known, acceptance, limits))
        stack.push_async_callback(pool.close)
        await pool.open()
        async with pool.transaction() as connection:
            await asyncio.to_thread(file.write_bytes, b"".join(_chunks(records, connection)))


def _chunks(records: Sequence[Task], connection: MysqlConnection) -> Iterator[bytes]:
    """The statements that would write `records` over this connection, a transaction for each thousand."""
    upsert: Upsert[Task] = Upsert(MysqlSchema(ALL_COLLECTIONS), TASKS)
    facts, escape = connection.facts, escape_for(connection)
    for start in range(0, len(records), _ROWS):
        chunk = records[start : start + _ROWS]
        statements = upsert.statements(
            chunk, escape, max_packet_bytes=facts.max_packet_bytes, row_alias=facts.row_alias
        )
        yield b";\n".join([b"BEGIN", *statements, b"COMMIT", b""])

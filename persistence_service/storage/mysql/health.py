"""Whether the database can be written: asked as often as anybody likes, and told within about a second."""

from __future__ import annotations

import asyncio

import structlog
from pymysql.constants import ER

from persistence_service.errors import PersistenceError, StorageSetupError
from persistence_service.storage.backend import BackendHealth
from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.mysql.pool import ConnectionPool
from persistence_service.storage.sql.migrate import version_problem

_log = structlog.get_logger(__name__)

_WAIT_S = 1.0
_ANSWER_S = 3.0
_NOT_YET = "the database was not looked at yet"
_FAILED = "the database could not be looked at, by a mistake of the service: see its log"
_READ_ONLY = "the server is read-only (read_only is on): it is no primary, or somebody has locked it"


class HealthCheck:
    """Looks at the server over the pool.

    Within a second there is an answer, or the last one is told: a pool that is busy is not ill. At most one look is under way.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._looking: asyncio.Task[None] | None = None
        self._problem = _NOT_YET
        self._engine = "mysql"
        self._version = ""

    async def check(self) -> BackendHealth:
        """Whether it can be written, and what is wrong if not."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="mysql-health")
        await asyncio.wait([self._looking], timeout=_WAIT_S)
        return self.told(self._problem)

    def told(self, problem: str) -> BackendHealth:
        """Ill with that, or healthy without any; the engine and its version as it last said."""
        return BackendHealth(not problem, self._engine, self._version, problem)

    def stop(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()

    async def _look(self) -> None:
        try:
            self._problem = await self._pool.read(self._problem_at)
        except PersistenceError as exc:
            self._problem = str(exc)
        except Exception:  # noqa: BLE001  # nobody awaits this task: it is the supervision point of the look
            if self._problem != _FAILED:
                _log.exception("mysql.health_check_failed")
            self._problem = _FAILED

    async def _problem_at(self, connection: MysqlConnection) -> str:
        facts = connection.facts
        self._engine, self._version = "mariadb" if facts.is_mariadb else "mysql", facts.version
        answer = await connection.run("SELECT @@global.read_only", limit_s=_ANSWER_S)
        return _READ_ONLY if answer.rows[0][0] else await schema_problem(connection)


async def schema_problem(connection: MysqlConnection) -> str:
    """What is wrong with the schema's version, and what to do; empty if it is as this package needs it.

    Raises:
        SchemaTooNew: its version is not among those of this package.
    """
    return version_problem(await schema_versions(connection))


async def schema_versions(connection: MysqlConnection) -> list[str]:
    """What the database says its schema is; nothing if it says nothing."""
    try:
        answer = await connection.run("SELECT version_num FROM alembic_version", limit_s=_ANSWER_S)
    except StorageSetupError as exc:
        if exc.number != ER.NO_SUCH_TABLE:
            raise
        return []
    return [str(version) for (version,) in answer.rows]

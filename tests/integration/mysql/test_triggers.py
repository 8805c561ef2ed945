"""Tables with triggers of the operator's: what a write rejects is told all the same.

Where there is a BEFORE trigger, servers check NOT NULL when a row is complete, not with each assignment.
"""

import pytest

from persistence_service.storage.backend import Rejection, RejectionReason, WriteResult
from persistence_service.storage.collections import SESSIONS, TASKS
from persistence_service.storage.mysql import MysqlBackend
from persistence_service.testing.samples import session_record, task_record
from tests.servers.server import Server


@pytest.mark.parametrize("event", ["INSERT", "UPDATE"])
async def test_a_task_of_another_session_is_rejected_beside_a_trigger(database_server: Server, event: str) -> None:
    database = database_server.new_database()
    backend = MysqlBackend(database_server.options(database))
    await backend.open()
    try:
        await backend.migrate()
        database_server.sql(
            f"CREATE TRIGGER seen BEFORE {event} ON translation_tasks FOR EACH ROW SET NEW.retry_count = NEW.retry_count",
            database,
        )
        async with backend.transaction() as transaction:
            await transaction.write(SESSIONS, [session_record("owner"), session_record("thief")])
            await transaction.write(TASKS, [task_record("task", "owner")])
        async with backend.transaction() as transaction:
            result = await transaction.write(TASKS, [task_record("task", "thief"), task_record("other", "thief")])
    finally:
        await backend.close()

    assert result == WriteResult(stored=1, rejected=(Rejection(0, RejectionReason.FIXED_FIELD_CHANGED),))
    stored = database_server.sql("SELECT task_id, session_id FROM translation_tasks ORDER BY task_id", database)
    assert stored == [("other", "thief"), ("task", "owner")]

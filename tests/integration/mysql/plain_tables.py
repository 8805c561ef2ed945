"""Databases with tables of the plain design, as people made them before there was this service."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pymysql

from persistence_service.models.status import Status
from persistence_service.storage.mysql.options import MysqlOptions
from tests.servers.server import Server

STATUSES = ", ".join(f"'{status.value}'" for status in Status)


@dataclass(frozen=True)
class Shape:
    """How somebody made the tables: types of columns, and what stands behind them; `changed` replaces text in the end."""

    status: str = "VARCHAR(20) NOT NULL DEFAULT 'pending'"
    json: str = "JSON"
    counter: str = "INT DEFAULT 0"
    share: str = "DECIMAL(5,4)"
    time: str = "DATETIME"
    made: str = "DATETIME DEFAULT CURRENT_TIMESTAMP"
    id: str = "VARCHAR"
    options: str = "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci"
    reference: str = ", CONSTRAINT fk_translation_tasks_session_id FOREIGN KEY (session_id) REFERENCES translation_sessions (session_id) ON DELETE CASCADE"
    sessions: str = ""
    tasks: str = ""
    changed: Mapping[str, str] = field(default_factory=dict)

    def statements(self) -> list[str]:
        made = f"created_at {self.made}, updated_at {self.made} ON UPDATE CURRENT_TIMESTAMP"
        if "(6)" in self.made:
            made = made.replace("UPDATE CURRENT_TIMESTAMP", "UPDATE CURRENT_TIMESTAMP(6)")
        statements = [
            (
                f"CREATE TABLE translation_sessions (session_id {self.id}(36) PRIMARY KEY, filename VARCHAR(255) NOT NULL,"
                f" file_path VARCHAR(600), status {self.status}, game_info {self.json}, llm_provider VARCHAR(50),"
                f" metadata {self.json}, total_tasks {self.counter}, completed_tasks {self.counter}, failed_tasks"
                f" {self.counter}, processing_tasks {self.counter}, {made}, INDEX idx_status (status){self.sessions})"
                f" {self.options}"
            ),
            (
                f"CREATE TABLE translation_tasks (task_id {self.id}(64) PRIMARY KEY, session_id {self.id}(36) NOT NULL,"
                " batch_id VARCHAR(64), sheet_name VARCHAR(255), row_index INT, column_name VARCHAR(255),"
                f" source_text LONGTEXT, target_text LONGTEXT, context TEXT, status {self.status}, confidence {self.share},"
                f" error_message TEXT, retry_count {self.counter}, start_time {self.time} NULL, end_time {self.time} NULL,"
                f" duration_ms BIGINT, {made}, INDEX idx_session (session_id), INDEX idx_batch (batch_id){self.reference}"
                f"{self.tasks}) {self.options}"
            ),
        ]
        for old, new in self.changed.items():
            assert any(old in statement for statement in statements)
            statements = [statement.replace(old, new) for statement in statements]
        return statements


PLAIN = Shape()
SHAPES = {
    "plain": PLAIN,
    "enums-and-timestamps": Shape(
        status=f"ENUM({STATUSES}) NOT NULL",
        time="TIMESTAMP(3)",
        made="TIMESTAMP NULL DEFAULT CURRENT_TIMESTAMP",
        share="FLOAT",
        options="ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci",
    ),
    "texts-and-microseconds": Shape(
        json="LONGTEXT",
        share="DOUBLE",
        time="DATETIME(6)",
        made="DATETIME(6) DEFAULT CURRENT_TIMESTAMP(6)",
        reference="",
    ),
    "unsigned-and-fixed-ids": Shape(
        id="CHAR", counter="INT UNSIGNED NULL", options="ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"
    ),
    "three-byte-texts-without-a-reference": Shape(
        options="ENGINE=MyISAM DEFAULT CHARSET=utf8mb3", reference="", tasks=", notes TEXT"
    ),
}


class OldDatabase:
    """One of these databases, on a connection like that of the service that wrote it: in UTC, and not strict."""

    def __init__(self, server: Server, options: MysqlOptions) -> None:
        self.server = server
        self.options = options
        self.connection = pymysql.connect(
            host=server.host,
            port=server.port,
            user=server.user,
            database=options.database,
            charset="utf8mb4",
            autocommit=True,
            ssl_disabled=True,
            init_command="SET time_zone = '+00:00', sql_mode = ''",
        )

    def make(self, shape: Shape) -> None:
        for statement in shape.statements():
            self.sql(statement)

    def sql(self, statement: str, values: Sequence[object] | None = None) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, values)

    def insert(self, table: str, *rows: Mapping[str, object]) -> None:
        """Rows of the same columns."""
        statement = f"INSERT INTO {table} ({', '.join(rows[0])}) VALUES ({', '.join(['%s'] * len(rows[0]))})"
        with self.connection.cursor() as cursor:
            cursor.executemany(statement, [tuple(row.values()) for row in rows])

    def session(self, session_id: str = "s", **changes: object) -> None:
        values: dict[str, object] = {
            "session_id": session_id,
            "filename": "a.xlsx",
            "file_path": "/a.xlsx",
            "status": "processing",
            "llm_provider": "x",
            "created_at": "2026-01-30 11:00:00",
            "updated_at": "2026-01-31 12:00:00",
        }
        self.insert("translation_sessions", values | changes)

    def task(self, task_id: str = "t", session_id: str = "s", **changes: object) -> None:
        self.tasks([task_id], session_id=session_id, **changes)

    def tasks(self, task_ids: Sequence[str], **changes: object) -> None:
        """Several that are alike but for their ids."""
        values: dict[str, object] = {
            "session_id": "s",
            "batch_id": "b",
            "sheet_name": "Sheet",
            "row_index": 1,
            "column_name": "C",
            "source_text": "text",
            "status": "completed",
            "created_at": "2026-01-30 11:00:00",
            "updated_at": "2026-01-31 12:00:00",
        }
        self.insert("translation_tasks", *({"task_id": task_id} | values | changes for task_id in task_ids))

    def found(self, table: str) -> dict[str, dict[str, Any]]:
        """Key → row, in the service's table."""
        with self.connection.cursor(pymysql.cursors.DictCursor) as cursor:
            cursor.execute(f"SELECT * FROM {table}")
            return {next(iter(row.values())): row for row in cursor.fetchall()}

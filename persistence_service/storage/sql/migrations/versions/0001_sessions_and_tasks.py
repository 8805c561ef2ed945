"""Sessions and tasks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables and their indexes."""
    op.create_table(
        "translation_sessions",
        sa.Column("session_id", sa.Text, primary_key=True),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("file_path", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("llm_provider", sa.Text, nullable=False),
        sa.Column("processing_tasks", sa.Integer, nullable=False),
        sa.Column("total_tasks", sa.Integer, nullable=False),
        sa.Column("completed_tasks", sa.Integer, nullable=False),
        sa.Column("failed_tasks", sa.Integer, nullable=False),
        sa.Column("game_info", sa.Text),
        sa.Column("metadata", sa.Text),
        sa.Column("event_time", sa.Text, nullable=False),
        sa.Column("digest", sa.BLOB, nullable=False),
        sa.Column("game_info_time", sa.Text),
        sa.Column("game_info_digest", sa.BLOB),
        sa.Column("metadata_time", sa.Text),
        sa.Column("metadata_digest", sa.BLOB),
        sa.Column("created_at", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Text, nullable=False),
        sqlite_strict=True,
    )
    op.create_index("ix_sessions_created", "translation_sessions", ["created_at", "session_id"])
    op.create_table(
        "translation_tasks",
        sa.Column("task_id", sa.Text, primary_key=True),
        sa.Column(
            "session_id",
            sa.Text,
            sa.ForeignKey("translation_sessions.session_id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("batch_id", sa.Text, nullable=False),
        sa.Column("sheet_name", sa.Text, nullable=False),
        sa.Column("row_index", sa.Integer, nullable=False),
        sa.Column("column_name", sa.Text, nullable=False),
        sa.Column("source_text", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("target_text", sa.Text),
        sa.Column("context", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("retry_count", sa.Integer, nullable=False),
        sa.Column("duration_ms", sa.Integer),
        sa.Column("confidence", sa.REAL),
        sa.Column("start_time", sa.Text),
        sa.Column("end_time", sa.Text),
        sa.Column("event_time", sa.Text, nullable=False),
        sa.Column("digest", sa.BLOB, nullable=False),
        sa.Column("created_at", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Text, nullable=False),
        sqlite_strict=True,
    )
    for name, columns in (
        ("ix_tasks_position", ["session_id", "sheet_name", "row_index", "column_name", "task_id"]),
        ("ix_tasks_status", ["session_id", "status", "updated_at"]),
        ("ix_tasks_batch", ["batch_id", "created_at", "task_id"]),
        ("ix_tasks_created", ["created_at", "task_id"]),
        ("ix_tasks_updated", ["updated_at", "task_id"]),
    ):
        op.create_index(name, "translation_tasks", columns)

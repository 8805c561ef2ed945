"""Sessions and tasks."""

from __future__ import annotations

import sqlalchemy as sa

from persistence_service.storage.sql.migrations.columns import digest, integer, large_integer, real, text, time
from persistence_service.storage.sql.migrations.steps import create_table, reference

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables and their indexes."""
    create_table(
        "translation_sessions",
        sa.Column("session_id", text(36), primary_key=True),
        sa.Column("filename", text(255), nullable=False),
        sa.Column("file_path", text(512), nullable=False),
        sa.Column("status", text(16), nullable=False),
        sa.Column("llm_provider", text(50), nullable=False),
        sa.Column("processing_tasks", integer(), nullable=False),
        sa.Column("total_tasks", integer(), nullable=False),
        sa.Column("completed_tasks", integer(), nullable=False),
        sa.Column("failed_tasks", integer(), nullable=False),
        sa.Column("game_info", text()),
        sa.Column("metadata", text()),
        sa.Column("event_time", time(), nullable=False),
        sa.Column("digest", digest(), nullable=False),
        sa.Column("game_info_time", time()),
        sa.Column("game_info_digest", digest()),
        sa.Column("metadata_time", time()),
        sa.Column("metadata_digest", digest()),
        sa.Column("created_at", time(), nullable=False),
        sa.Column("updated_at", time(), nullable=False),
        indexes={"ix_sessions_created": ["created_at", "session_id"]},
        merging=True,
    )
    create_table(
        "translation_tasks",
        sa.Column("task_id", text(64), primary_key=True),
        sa.Column(
            "session_id",
            text(36),
            reference("translation_sessions", "session_id", name="fk_translation_tasks_session_id"),
            nullable=False,
        ),
        sa.Column("batch_id", text(64), nullable=False),
        sa.Column("sheet_name", text(255), nullable=False),
        sa.Column("row_index", integer(), nullable=False),
        sa.Column("column_name", text(255), nullable=False),
        sa.Column("source_text", text(), nullable=False),
        sa.Column("status", text(16), nullable=False),
        sa.Column("target_text", text()),
        sa.Column("context", text()),
        sa.Column("error_message", text()),
        sa.Column("retry_count", integer(), nullable=False),
        sa.Column("duration_ms", large_integer()),
        sa.Column("confidence", real()),
        sa.Column("start_time", time()),
        sa.Column("end_time", time()),
        sa.Column("event_time", time(), nullable=False),
        sa.Column("digest", digest(), nullable=False),
        sa.Column("created_at", time(), nullable=False),
        sa.Column("updated_at", time(), nullable=False),
        indexes={
            "ix_tasks_position": ["session_id", "sheet_name", "row_index", "column_name", "task_id"],
            "ix_tasks_status": ["session_id", "status", "updated_at"],
            "ix_tasks_batch": ["batch_id", "created_at", "task_id"],
            "ix_tasks_created": ["created_at", "task_id"],
            "ix_tasks_updated": ["updated_at", "task_id"],
        },
        merging=True,
    )

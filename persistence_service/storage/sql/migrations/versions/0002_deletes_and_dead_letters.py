"""Tombstones of deleted sessions, dead letters, and an index from which statistics are made without reading rows."""

from __future__ import annotations

import sqlalchemy as sa

from persistence_service.storage.sql.migrations.columns import blob, integer, large_integer, text, time
from persistence_service.storage.sql.migrations.steps import create_table, reference, replace_index

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the tables and their indexes."""
    replace_index(
        "ix_tasks_status", "translation_tasks", ["session_id", "status", "updated_at", "duration_ms", "confidence"]
    )
    create_table(
        "deleted_sessions",
        sa.Column("session_id", text(36), primary_key=True),
        sa.Column("deleted_up_to", time(), nullable=False),
        sa.Column("removed_at", time()),
        sa.Column("created_at", time(), nullable=False),
        sa.Column("updated_at", time(), nullable=False),
        indexes={"ix_deleted_removed": ["removed_at", "session_id"]},
        merging=True,
    )
    create_table(
        "dead_letters",
        sa.Column("letter_id", text(64), primary_key=True),
        sa.Column("collection", text(64), nullable=False),
        sa.Column("record_key", text(255), nullable=False),
        sa.Column("session_id", text(36), nullable=False),
        sa.Column("reason", text(64), nullable=False),
        sa.Column("detail", text(), nullable=False),
        sa.Column("error_number", large_integer()),
        sa.Column("error_column", text(255)),
        sa.Column("event_time", time(), nullable=False),
        sa.Column("record_bytes", large_integer(), nullable=False),
        sa.Column("parts", integer(), nullable=False),
        sa.Column("created_at", time(), nullable=False),
        sa.Column("updated_at", time(), nullable=False),
        indexes={
            "ix_letters_created": ["created_at", "letter_id"],
            "ix_letters_reason": ["reason", "session_id", "letter_id"],
        },
        merging=True,
    )
    create_table(
        "dead_letter_parts",
        sa.Column("part_id", text(96), primary_key=True),
        sa.Column(
            "letter_id",
            text(64),
            reference("dead_letters", "letter_id", name="fk_dead_letter_parts_letter_id"),
            nullable=False,
        ),
        sa.Column("data", blob(), nullable=False),
        indexes={"ix_letter_parts": ["letter_id", "part_id"]},
    )
    create_table(
        "settled_dead_letters",
        sa.Column("letter_id", text(64), primary_key=True),
        sa.Column("created_at", time(), nullable=False),
    )

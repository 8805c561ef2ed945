"""Tombstones of deleted sessions, dead letters, and an index from which statistics are made without reading rows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the tables and their indexes."""
    op.drop_index("ix_tasks_status", "translation_tasks")
    op.create_index(
        "ix_tasks_status", "translation_tasks", ["session_id", "status", "updated_at", "duration_ms", "confidence"]
    )
    op.create_table(
        "deleted_sessions",
        sa.Column("session_id", sa.Text, primary_key=True),
        sa.Column("deleted_up_to", sa.Text, nullable=False),
        sa.Column("removed_at", sa.Text),
        sa.Column("created_at", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Text, nullable=False),
        sqlite_strict=True,
    )
    op.create_index("ix_deleted_removed", "deleted_sessions", ["removed_at", "session_id"])
    op.create_table(
        "dead_letters",
        sa.Column("letter_id", sa.Text, primary_key=True),
        sa.Column("collection", sa.Text, nullable=False),
        sa.Column("record_key", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("error_number", sa.Integer),
        sa.Column("error_column", sa.Text),
        sa.Column("event_time", sa.Text, nullable=False),
        sa.Column("record_bytes", sa.Integer, nullable=False),
        sa.Column("parts", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Text, nullable=False),
        sqlite_strict=True,
    )
    op.create_index("ix_letters_created", "dead_letters", ["created_at", "letter_id"])
    op.create_index("ix_letters_reason", "dead_letters", ["reason", "session_id", "letter_id"])
    op.create_table(
        "dead_letter_parts",
        sa.Column("part_id", sa.Text, primary_key=True),
        sa.Column(
            "letter_id",
            sa.Text,
            sa.ForeignKey("dead_letters.letter_id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("data", sa.BLOB, nullable=False),
        sqlite_strict=True,
    )
    op.create_index("ix_letter_parts", "dead_letter_parts", ["letter_id", "part_id"])
    op.create_table(
        "settled_dead_letters",
        sa.Column("letter_id", sa.Text, primary_key=True),
        sa.Column("created_at", sa.Text, nullable=False),
        sqlite_strict=True,
    )

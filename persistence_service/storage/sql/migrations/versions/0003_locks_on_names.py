"""Rows to be locked in place of names, where transactions run side by side."""

from __future__ import annotations

from persistence_service.storage.sql.migrations.steps import create_rows_to_lock

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the table with its rows; SQLite has one transaction at a time, and needs none."""
    create_rows_to_lock("name_locks", 64)

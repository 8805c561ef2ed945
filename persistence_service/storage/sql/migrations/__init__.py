"""The versions of the schema: Alembic scripts, applied by `persistence_service.storage.sql.migrate`."""

-- The complete current schema of the SQLite database. Generated: see README.md beside this file.
--
-- Times are texts `YYYY-MM-DD HH:MM:SS.ffffff` in UTC. `digest` and `…_digest` are the 16 bytes that break ties of the
-- merge rule, `game_info_time` and `metadata_time` the event times that these two values won with.

CREATE TABLE dead_letters (
    letter_id TEXT NOT NULL,
    collection TEXT NOT NULL,
    record_key TEXT NOT NULL,
    session_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    error_number INTEGER,
    error_column TEXT,
    event_time TEXT NOT NULL,
    record_bytes INTEGER NOT NULL,
    parts INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    PRIMARY KEY (letter_id)
) STRICT;

CREATE INDEX ix_letters_created ON dead_letters (created_at, letter_id);

CREATE INDEX ix_letters_reason ON dead_letters (reason, session_id, letter_id);

CREATE TABLE deleted_sessions (
    session_id TEXT NOT NULL,
    deleted_up_to TEXT NOT NULL,
    removed_at TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    PRIMARY KEY (session_id)
) STRICT;

CREATE INDEX ix_deleted_removed ON deleted_sessions (removed_at, session_id);

CREATE TABLE settled_dead_letters (
    letter_id TEXT NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (letter_id)
) STRICT;

CREATE TABLE translation_sessions (
    session_id TEXT NOT NULL,
    filename TEXT NOT NULL,
    file_path TEXT NOT NULL,
    status TEXT NOT NULL,
    llm_provider TEXT NOT NULL,
    processing_tasks INTEGER NOT NULL,
    total_tasks INTEGER NOT NULL,
    completed_tasks INTEGER NOT NULL,
    failed_tasks INTEGER NOT NULL,
    game_info TEXT,
    metadata TEXT,
    event_time TEXT NOT NULL,
    digest BLOB NOT NULL,
    game_info_time TEXT,
    game_info_digest BLOB,
    metadata_time TEXT,
    metadata_digest BLOB,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    PRIMARY KEY (session_id)
) STRICT;

CREATE INDEX ix_sessions_created ON translation_sessions (created_at, session_id);

CREATE TABLE dead_letter_parts (
    part_id TEXT NOT NULL,
    letter_id TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (part_id),
    FOREIGN KEY(letter_id) REFERENCES dead_letters (letter_id) ON DELETE CASCADE
) STRICT;

CREATE INDEX ix_letter_parts ON dead_letter_parts (letter_id, part_id);

CREATE TABLE translation_tasks (
    task_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    batch_id TEXT NOT NULL,
    sheet_name TEXT NOT NULL,
    row_index INTEGER NOT NULL,
    column_name TEXT NOT NULL,
    source_text TEXT NOT NULL,
    status TEXT NOT NULL,
    target_text TEXT,
    context TEXT,
    error_message TEXT,
    retry_count INTEGER NOT NULL,
    duration_ms INTEGER,
    confidence REAL,
    start_time TEXT,
    end_time TEXT,
    event_time TEXT NOT NULL,
    digest BLOB NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    PRIMARY KEY (task_id),
    FOREIGN KEY(session_id) REFERENCES translation_sessions (session_id) ON DELETE CASCADE
) STRICT;

CREATE INDEX ix_tasks_batch ON translation_tasks (batch_id, created_at, task_id);

CREATE INDEX ix_tasks_created ON translation_tasks (created_at, task_id);

CREATE INDEX ix_tasks_position ON translation_tasks (session_id, sheet_name, row_index, column_name, task_id);

CREATE INDEX ix_tasks_status ON translation_tasks (session_id, status, updated_at, duration_ms, confidence);

CREATE INDEX ix_tasks_updated ON translation_tasks (updated_at, task_id);

-- The version of the schema, so that the service accepts a database made from this file.
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

INSERT INTO alembic_version (version_num) VALUES ('0003');

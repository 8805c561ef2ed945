-- The complete current schema for MySQL and MariaDB. Generated: see README.md beside this file.
--
-- Times are UTC. `digest` and `…_digest` are the 16 bytes that break ties of the merge rule, `game_info_time` and
-- `metadata_time` the event times that these two values won with. `arriving_wins` is where an upsert notes whether the
-- arriving record wins; it is 0 in every row. The collation compares texts byte by byte, and each of the two kinds of server
-- reads the comment that names its own.

CREATE DATABASE IF NOT EXISTS `ai_terminal` CHARACTER SET utf8mb4 COLLATE /*!80017 utf8mb4_0900_bin *//*M!100200 utf8mb4_nopad_bin */;

USE `ai_terminal`;

CREATE TABLE dead_letters (
    letter_id VARCHAR(64) NOT NULL,
    collection VARCHAR(64) NOT NULL,
    record_key VARCHAR(255) NOT NULL,
    session_id VARCHAR(36) NOT NULL,
    reason VARCHAR(64) NOT NULL,
    detail MEDIUMTEXT NOT NULL,
    error_number BIGINT,
    error_column VARCHAR(255),
    event_time DATETIME(6) NOT NULL,
    record_bytes BIGINT NOT NULL,
    parts INTEGER NOT NULL,
    created_at DATETIME(6) NOT NULL,
    updated_at DATETIME(6) NOT NULL,
    arriving_wins TINYINT NOT NULL DEFAULT 0,
    PRIMARY KEY (letter_id),
    INDEX ix_letters_created (created_at, letter_id),
    INDEX ix_letters_reason (reason, session_id, letter_id)
) ENGINE=InnoDB CHARSET=utf8mb4 ROW_FORMAT=DYNAMIC COLLATE /*!80017 utf8mb4_0900_bin *//*M!100200 utf8mb4_nopad_bin */;

CREATE TABLE deleted_sessions (
    session_id VARCHAR(36) NOT NULL,
    deleted_up_to DATETIME(6) NOT NULL,
    removed_at DATETIME(6),
    created_at DATETIME(6) NOT NULL,
    updated_at DATETIME(6) NOT NULL,
    arriving_wins TINYINT NOT NULL DEFAULT 0,
    PRIMARY KEY (session_id),
    INDEX ix_deleted_removed (removed_at, session_id)
) ENGINE=InnoDB CHARSET=utf8mb4 ROW_FORMAT=DYNAMIC COLLATE /*!80017 utf8mb4_0900_bin *//*M!100200 utf8mb4_nopad_bin */;

CREATE TABLE migration_lock (
    id TINYINT NOT NULL,
    PRIMARY KEY (id)
) ENGINE=InnoDB CHARSET=utf8mb4 ROW_FORMAT=DYNAMIC COLLATE /*!80017 utf8mb4_0900_bin *//*M!100200 utf8mb4_nopad_bin */;

CREATE TABLE name_locks (
    id TINYINT NOT NULL,
    PRIMARY KEY (id)
) ENGINE=InnoDB CHARSET=utf8mb4 ROW_FORMAT=DYNAMIC COLLATE /*!80017 utf8mb4_0900_bin *//*M!100200 utf8mb4_nopad_bin */;

CREATE TABLE settled_dead_letters (
    letter_id VARCHAR(64) NOT NULL,
    created_at DATETIME(6) NOT NULL,
    PRIMARY KEY (letter_id)
) ENGINE=InnoDB CHARSET=utf8mb4 ROW_FORMAT=DYNAMIC COLLATE /*!80017 utf8mb4_0900_bin *//*M!100200 utf8mb4_nopad_bin */;

CREATE TABLE translation_sessions (
    session_id VARCHAR(36) NOT NULL,
    filename VARCHAR(255) NOT NULL,
    file_path VARCHAR(512) NOT NULL,
    status VARCHAR(16) NOT NULL,
    llm_provider VARCHAR(50) NOT NULL,
    processing_tasks INTEGER NOT NULL,
    total_tasks INTEGER NOT NULL,
    completed_tasks INTEGER NOT NULL,
    failed_tasks INTEGER NOT NULL,
    game_info MEDIUMTEXT,
    metadata MEDIUMTEXT,
    event_time DATETIME(6) NOT NULL,
    digest VARBINARY(32) NOT NULL,
    game_info_time DATETIME(6),
    game_info_digest VARBINARY(32),
    metadata_time DATETIME(6),
    metadata_digest VARBINARY(32),
    created_at DATETIME(6) NOT NULL,
    updated_at DATETIME(6) NOT NULL,
    arriving_wins TINYINT NOT NULL DEFAULT 0,
    PRIMARY KEY (session_id),
    INDEX ix_sessions_created (created_at, session_id)
) ENGINE=InnoDB CHARSET=utf8mb4 ROW_FORMAT=DYNAMIC COLLATE /*!80017 utf8mb4_0900_bin *//*M!100200 utf8mb4_nopad_bin */;

CREATE TABLE dead_letter_parts (
    part_id VARCHAR(96) NOT NULL,
    letter_id VARCHAR(64) NOT NULL,
    data MEDIUMBLOB NOT NULL,
    PRIMARY KEY (part_id),
    CONSTRAINT fk_dead_letter_parts_letter_id FOREIGN KEY(letter_id) REFERENCES dead_letters (letter_id) ON DELETE CASCADE,
    INDEX ix_letter_parts (letter_id, part_id)
) ENGINE=InnoDB CHARSET=utf8mb4 ROW_FORMAT=DYNAMIC COLLATE /*!80017 utf8mb4_0900_bin *//*M!100200 utf8mb4_nopad_bin */;

CREATE TABLE translation_tasks (
    task_id VARCHAR(64) NOT NULL,
    session_id VARCHAR(36) NOT NULL,
    batch_id VARCHAR(64) NOT NULL,
    sheet_name VARCHAR(255) NOT NULL,
    row_index INTEGER NOT NULL,
    column_name VARCHAR(255) NOT NULL,
    source_text MEDIUMTEXT NOT NULL,
    status VARCHAR(16) NOT NULL,
    target_text MEDIUMTEXT,
    context MEDIUMTEXT,
    error_message MEDIUMTEXT,
    retry_count INTEGER NOT NULL,
    duration_ms BIGINT,
    confidence DOUBLE,
    start_time DATETIME(6),
    end_time DATETIME(6),
    event_time DATETIME(6) NOT NULL,
    digest VARBINARY(32) NOT NULL,
    created_at DATETIME(6) NOT NULL,
    updated_at DATETIME(6) NOT NULL,
    arriving_wins TINYINT NOT NULL DEFAULT 0,
    PRIMARY KEY (task_id),
    CONSTRAINT fk_translation_tasks_session_id FOREIGN KEY(session_id) REFERENCES translation_sessions (session_id) ON DELETE CASCADE,
    INDEX ix_tasks_batch (batch_id, created_at, task_id),
    INDEX ix_tasks_created (created_at, task_id),
    INDEX ix_tasks_position (session_id, sheet_name, row_index, column_name, task_id),
    INDEX ix_tasks_status (session_id, status, updated_at, duration_ms, confidence),
    INDEX ix_tasks_updated (updated_at, task_id)
) ENGINE=InnoDB CHARSET=utf8mb4 ROW_FORMAT=DYNAMIC COLLATE /*!80017 utf8mb4_0900_bin *//*M!100200 utf8mb4_nopad_bin */;

INSERT INTO name_locks (id) VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9), (10), (11), (12), (13), (14), (15), (16), (17), (18), (19), (20), (21), (22), (23), (24), (25), (26), (27), (28), (29), (30), (31), (32), (33), (34), (35), (36), (37), (38), (39), (40), (41), (42), (43), (44), (45), (46), (47), (48), (49), (50), (51), (52), (53), (54), (55), (56), (57), (58), (59), (60), (61), (62), (63);

-- The version of the schema, so that the service accepts a database made from this file.
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
) ENGINE=InnoDB CHARSET=utf8mb4 ROW_FORMAT=DYNAMIC COLLATE /*!80017 utf8mb4_0900_bin *//*M!100200 utf8mb4_nopad_bin */;

INSERT INTO alembic_version (version_num) VALUES ('0003');

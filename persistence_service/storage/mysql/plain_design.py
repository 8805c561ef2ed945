"""The plain design of the two tables, which services of its kind began with: the contract's columns and nothing else.

It is written in many ways: an ENUM or a text for the status, JSON columns or texts, times with or without fractions, NULL where
nothing was counted. Here is which of them fit, and how their values read in this service's tables.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from persistence_service.models.digest import DIGEST_BYTES
from persistence_service.models.limits import (
    MAX_DURATION_MS,
    MAX_INT,
    MAX_NAME,
    MAX_PATH,
    MAX_PROVIDER,
    MAX_SESSION_ID,
    MAX_TASK_ID,
)
from persistence_service.models.status import Status
from persistence_service.models.task import ID_PATTERN, SESSION_ID_PATTERN

_TEXTS = frozenset({"char", "varchar", "tinytext", "text", "mediumtext", "longtext"})
_WHOLE_NUMBERS = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint"})
_MAX_TEXT_BYTES = 2**24 - 1
_CLOCKS_APART_MINUTES = 5

LOWEST_DIGEST = f"X'{bytes(DIGEST_BYTES).hex()}'"
"""The digest of adopted rows. The real one is of the record as a worker sent it, which nobody has any more: a database may have
rounded its numbers and reordered its JSON. So a record that is sent again with the same time and status wins, and brings its own."""


@dataclass(frozen=True, slots=True)
class PlainColumn(ABC):
    """A column of the plain design; texts of SQL speak of a row of its table by the name `o`."""

    name: str
    types: ClassVar[frozenset[str]]

    @property
    def old(self) -> str:
        """The column."""
        return f"o.`{self.name}`"

    @property
    def value(self) -> str:
        """What this service's column of the same name gets."""
        return self.old

    @property
    def text(self) -> str:
        """The column in the characters of this service's."""
        return f"CONVERT({self.old} USING utf8mb4)"

    @abstractmethod
    def misfits(self) -> Mapping[str, str]:
        """What may be wrong with a value, in words: condition in SQL."""


@dataclass(frozen=True, slots=True)
class TextColumn(PlainColumn):
    """At most `width` characters, or what a column without a bound holds."""

    width: int | None = None
    required: bool = True
    types = _TEXTS | {"enum", "json"}

    def misfits(self) -> Mapping[str, str]:
        found = {f"is longer than {self.width} characters": f"CHAR_LENGTH({self.old}) > {self.width}"}
        if self.width is None:
            found = {"is longer than 16 MiB": f"LENGTH({self.text}) > {_MAX_TEXT_BYTES}"}
        return found | ({"is NULL": f"{self.old} IS NULL"} if self.required else {})


@dataclass(frozen=True, slots=True)
class IdColumn(TextColumn):
    """An id as the contract has it: others could be in the table, and in no request."""

    pattern: str = ID_PATTERN

    def misfits(self) -> Mapping[str, str]:
        words = (
            "is no id: it is empty, '.' or '..', or has a blank at an end, a control character or (a session's) a '/'"
        )
        # Only of what is not too long: a server gives up on a comparison that takes it many steps.
        wrong = f"CHAR_LENGTH({self.old}) <= {self.width} AND {self.text} NOT REGEXP {_sql_pattern(self.pattern)}"
        return {**TextColumn.misfits(self), words: wrong}


@dataclass(frozen=True, slots=True)
class StatusColumn(PlainColumn):
    types = _TEXTS | {"enum"}

    def misfits(self) -> Mapping[str, str]:
        known = ", ".join(f"'{status.value}'" for status in Status)
        as_bytes = f"CAST({self.text} AS BINARY)"
        return {
            f"is none of {known}": f"{self.old} IS NULL OR {as_bytes} NOT IN ({known})",
        }


@dataclass(frozen=True, slots=True)
class NumberColumn(PlainColumn):
    """A whole number from 0 on. `absent` is what NULL becomes: a number, NULL itself, or nothing where it must not be."""

    maximum: int = MAX_INT
    absent: str = ""
    types = _WHOLE_NUMBERS

    @property
    def value(self) -> str:
        return f"COALESCE({self.old}, {self.absent})" if self.absent else self.old

    def misfits(self) -> Mapping[str, str]:
        found = {f"is not from 0 to {self.maximum}": f"{self.old} < 0 OR {self.old} > {self.maximum}"}
        return found if self.absent else found | {"is NULL": f"{self.old} IS NULL"}


@dataclass(frozen=True, slots=True)
class ShareColumn(PlainColumn):
    """A number from 0 to 1, or NULL, of which four decimals are kept."""

    types = _WHOLE_NUMBERS | {"decimal", "float", "double"}

    @property
    def value(self) -> str:
        return f"ROUND({self.old}, 4)"

    def misfits(self) -> Mapping[str, str]:
        return {"is not from 0 to 1": f"{self.old} < 0 OR {self.old} > 1"}


@dataclass(frozen=True, slots=True)
class JsonColumn(PlainColumn):
    """A JSON object; JSON's own null is none."""

    types = _TEXTS | {"json"}

    @property
    def value(self) -> str:
        return f"IF({self._kind} = 'OBJECT', {self.text}, NULL)"

    def misfits(self) -> Mapping[str, str]:
        return {"is no JSON object": f"{self.old} IS NOT NULL AND {self._kind} NOT IN ('OBJECT', 'NULL')"}

    @property
    def _kind(self) -> str:
        return f"IF(JSON_VALID({self.text}), JSON_TYPE({self.text}), 'none')"


@dataclass(frozen=True, slots=True)
class TimeColumn(PlainColumn):
    """A time in UTC; NULL is the time of `otherwise`, or NULL where there is none."""

    otherwise: str = ""
    types = frozenset({"datetime", "timestamp"})

    @property
    def value(self) -> str:
        return f"COALESCE({self.old}, o.`{self.otherwise}`)" if self.otherwise else self.old

    def misfits(self) -> Mapping[str, str]:
        # A server that is not strict takes a month or a day of 0, and one may be set to take the 31st of February.
        no_day = f"MONTH({self.old}) = 0 OR DAYOFMONTH({self.old}) NOT BETWEEN 1 AND DAYOFMONTH(LAST_DAY({self.old}))"
        found = {"is before the year 1000, or no day that there is": f"YEAR({self.old}) < 1000 OR {no_day}"}
        if not self.otherwise:
            return found
        return found | {
            f"is NULL, as {self.otherwise} is": f"{self.value} IS NULL",
            # What is sent from now on would lose against such a row, and nobody would be told.
            "is in the future (if these are local times: they are taken as UTC, so shift all of the row first, in one "
            "UPDATE with CONVERT_TZ(…, '+08:00', '+00:00') or whatever their zone is)": (
                f"{self.old} > UTC_TIMESTAMP(6) + INTERVAL {_CLOCKS_APART_MINUTES} MINUTE"
            ),
        }


@dataclass(frozen=True, slots=True)
class PlainTable:
    """A table of the plain design, and `added`: this service's own columns and what they get."""

    name: str
    key: str
    columns: Sequence[PlainColumn]
    added: Mapping[str, str]

    @property
    def backup(self) -> str:
        """What it is called once this service has a table of its name."""
        return f"{self.name}_before_adoption"


_CREATED = TimeColumn("created_at", otherwise="updated_at")
_UPDATED = TimeColumn("updated_at", otherwise="created_at")
_GAME_INFO = JsonColumn("game_info")
_METADATA = JsonColumn("metadata")
# An adopted row is as old as its last change.
_OWN = {"event_time": _UPDATED.value, "digest": LOWEST_DIGEST}


def _sql_pattern(pattern: str) -> str:
    """A pattern of Python's as SQL: the engines of MySQL and MariaDB agree on another way to name a character by its number."""
    by_number = re.sub(r"\\u([0-9a-f]{4})", r"\\x{\1}", pattern)
    return "'" + by_number.replace("\\", "\\\\") + "'"


def _if_given(column: PlainColumn, value: str) -> str:
    return f"IF({column.value} IS NULL, NULL, {value})"


SESSIONS = PlainTable(
    "translation_sessions",
    "session_id",
    (
        IdColumn("session_id", MAX_SESSION_ID, pattern=SESSION_ID_PATTERN),
        TextColumn("filename", MAX_NAME),
        TextColumn("file_path", MAX_PATH),
        StatusColumn("status"),
        TextColumn("llm_provider", MAX_PROVIDER),
        NumberColumn("processing_tasks", absent="0"),
        NumberColumn("total_tasks", absent="0"),
        NumberColumn("completed_tasks", absent="0"),
        NumberColumn("failed_tasks", absent="0"),
        _GAME_INFO,
        _METADATA,
        _CREATED,
        _UPDATED,
    ),
    _OWN
    | {
        "game_info_time": _if_given(_GAME_INFO, _UPDATED.value),
        "game_info_digest": _if_given(_GAME_INFO, LOWEST_DIGEST),
        "metadata_time": _if_given(_METADATA, _UPDATED.value),
        "metadata_digest": _if_given(_METADATA, LOWEST_DIGEST),
    },
)
TASKS = PlainTable(
    "translation_tasks",
    "task_id",
    (
        IdColumn("task_id", MAX_TASK_ID),
        TextColumn("session_id", MAX_SESSION_ID),
        IdColumn("batch_id", MAX_TASK_ID),
        TextColumn("sheet_name", MAX_NAME),
        NumberColumn("row_index"),
        TextColumn("column_name", MAX_NAME),
        TextColumn("source_text"),
        StatusColumn("status"),
        TextColumn("target_text", required=False),
        TextColumn("context", required=False),
        TextColumn("error_message", required=False),
        NumberColumn("retry_count", absent="0"),
        NumberColumn("duration_ms", maximum=MAX_DURATION_MS, absent="NULL"),
        ShareColumn("confidence"),
        TimeColumn("start_time"),
        TimeColumn("end_time"),
        _CREATED,
        _UPDATED,
    ),
    _OWN,
)
TABLES: tuple[PlainTable, ...] = (SESSIONS, TASKS)
"""In the order in which they are copied: a task needs its session."""

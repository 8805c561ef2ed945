"""Every error this package raises on purpose, in one tree.

::

    PersistenceError
    ├── ConfigurationError          the configuration is wrong; lists every problem at once
    ├── RequestError                the caller can mend the request
    │   ├── MalformedBody           not the JSON that was announced
    │   ├── UnsupportedMedia        content type or encoding not understood
    │   ├── PayloadTooLarge         over a bound on bytes or items
    │   ├── RequestTimeout          the body did not arrive in time
    │   ├── ValidationFailed        lists every bad item and field
    │   ├── Forbidden               refused before it was looked at
    │   ├── SessionNotFound
    │   ├── TaskNotFound
    │   └── DeadLetterNotFound
    ├── Unavailable                 nothing is lost; the same request will work later
    │   ├── BufferFull              no room in memory until the flush catches up
    │   ├── MemoryLimit             too much is in work at once
    │   ├── JournalFull             no room on the journal's volume or within its bound
    │   ├── JournalUnavailable      the journal cannot be written
    │   ├── Replaying               the journal of the last run is still being read
    │   ├── ShuttingDown            intake has ended
    │   └── StorageUnavailable      the backend is away or not writable
    │       ├── QueryTimeout        the query ran into its time limit
    │       └── TransactionConflict another transaction was in the way
    ├── StorageError                the backend answered, and said no
    │   ├── DataRejected            a record can never be stored as it is
    │   ├── StorageSetupError       password, privilege or table is missing
    │   ├── UnclassifiedStorageError  an error number that is in no table
    │   ├── UnknownBackend
    │   ├── UnknownCollection
    │   ├── SchemaTooNew            the database was migrated by a later version
    │   └── BackendClosed           used before open() or after close()
    └── JournalError
        ├── JournalLocked           another process owns the directory
        ├── JournalRecordDamaged    a record is not on disk any more as it was written
        ├── DeadLetterDamaged       a dead letter's file is not as it was written
        └── JournalVersionUnknown   written by a later version of this package

``code`` is stable and meant for programs; ``retryable`` says whether the same call can succeed later without any change.
Attributes carry what a program needs, so that nobody parses a message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class PersistenceError(Exception):
    """Base of all errors of this package."""

    code: ClassVar[str] = "INTERNAL_ERROR"
    retryable: ClassVar[bool] = False


# ---------------------------------------------------------------------------------------------- configuration


@dataclass(frozen=True, slots=True)
class ConfigurationProblem:
    """One wrong setting: where it was found, its dotted key, what stood there, what is allowed."""

    source: str
    key: str
    value: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.source}: {self.key} = {self.value}: {self.allowed}"


class ConfigurationError(PersistenceError):
    """The configuration cannot be used; `problems` holds every mistake, never only the first."""

    code = "CONFIGURATION_ERROR"

    def __init__(self, problems: Sequence[ConfigurationProblem]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"the configuration has {len(self.problems)} problem(s):\n{lines}")


# ---------------------------------------------------------------------------------------------------- request


class RequestError(PersistenceError):
    """The request is at fault, and nothing of it was kept."""


class MalformedBody(RequestError):
    code = "MALFORMED_BODY"


class UnsupportedMedia(RequestError):
    code = "UNSUPPORTED_MEDIA_TYPE"


class PayloadTooLarge(RequestError):
    code = "PAYLOAD_TOO_LARGE"


class RequestTimeout(RequestError):
    code = "HTTP_408"


class Forbidden(RequestError):
    code = "FORBIDDEN"


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One wrong value of a request: `index` is the item's place in its array, None outside of one."""

    index: int | None
    field: str
    reason: str


class ValidationFailed(RequestError):
    """The request was understood and is wrong; `problems` has the first 100 of them, in order."""

    code = "VALIDATION_ERROR"

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0] if self.problems else None
        item = f"item {first.index}, " if first is not None and first.index is not None else ""
        told = f": {item}{first.field}: {first.reason}" if first is not None else ""
        super().__init__(f"{len(self.problems)} value(s) are not valid{told}")


class SessionNotFound(RequestError):
    code = "SESSION_NOT_FOUND"

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        super().__init__("no session has this id")


class TaskNotFound(RequestError):
    code = "TASK_NOT_FOUND"

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        super().__init__("no task has this id")


class DeadLetterNotFound(RequestError):
    code = "DEAD_LETTER_NOT_FOUND"

    def __init__(self, letter_id: str) -> None:
        self.letter_id = letter_id
        super().__init__("no dead letter has this id; it may have been replayed or discarded meanwhile")


# ------------------------------------------------------------------------------------------------ unavailable


class Unavailable(PersistenceError):
    """The service cannot do this now; `retry_after_s` is its estimate of when it can, None when unknown."""

    retryable = True

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class BufferFull(Unavailable):
    code = "BUFFER_FULL"


class MemoryLimit(Unavailable):
    code = "MEMORY_LIMIT"


class JournalFull(Unavailable):
    code = "JOURNAL_FULL"


class JournalUnavailable(Unavailable):
    code = "JOURNAL_UNAVAILABLE"


class Replaying(Unavailable):
    code = "JOURNAL_REPLAYING"


class ShuttingDown(Unavailable):
    code = "SHUTTING_DOWN"


class StorageUnavailable(Unavailable):
    """The backend cannot be reached or written; `number` is the driver's error number where there is one."""

    code = "STORAGE_UNAVAILABLE"

    def __init__(self, message: str, *, number: int | None = None, retry_after_s: float | None = None) -> None:
        self.number = number
        super().__init__(message, retry_after_s=retry_after_s)


class QueryTimeout(StorageUnavailable):
    code = "QUERY_TIMEOUT"


class TransactionConflict(StorageUnavailable):
    """The transaction was undone in favour of another one; repeated at once, it will very likely come through."""

    code = "TRANSACTION_CONFLICT"


# ---------------------------------------------------------------------------------------------------- storage


class StorageError(PersistenceError):
    """The backend was reached and refused."""

    code = "STORAGE_ERROR"


class DataRejected(StorageError):
    """A write holds a record that this backend can never accept.

    `number` is the driver's error number and `column` the column at fault, each None when not known.
    """

    code = "DATA_REJECTED"

    def __init__(self, message: str, *, number: int | None = None, column: str | None = None) -> None:
        self.number = number
        self.column = column
        super().__init__(message)


class StorageSetupError(StorageError):
    """A person must mend the set-up (password, privilege, missing table); slow retries are still worth it."""

    code = "STORAGE_SETUP"
    retryable = True

    def __init__(self, message: str, *, number: int | None = None) -> None:
        self.number = number
        super().__init__(message)


class UnclassifiedStorageError(StorageError):
    """The driver reported a number that no table of ours explains."""

    code = "STORAGE_UNCLASSIFIED"
    retryable = True

    def __init__(self, message: str, *, number: int | None = None) -> None:
        self.number = number
        super().__init__(message)


class UnknownBackend(StorageError):
    code = "UNKNOWN_BACKEND"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name = name
        self.known = tuple(sorted(known))
        super().__init__(f"there is no storage backend {name!r}; known are: {', '.join(self.known) or 'none'}")


class UnknownCollection(StorageError):
    code = "UNKNOWN_COLLECTION"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name = name
        self.known = tuple(sorted(known))
        super().__init__(f"there is no collection {name!r}; known are: {', '.join(self.known) or 'none'}")


class SchemaTooNew(StorageError):
    code = "SCHEMA_TOO_NEW"


class BackendClosed(StorageError):
    code = "BACKEND_CLOSED"


# ---------------------------------------------------------------------------------------------------- journal


class JournalError(PersistenceError):
    """The journal's directory cannot be used as it is; nothing in it was changed."""

    code = "JOURNAL_ERROR"


class JournalLocked(JournalError):
    code = "JOURNAL_LOCKED"

    def __init__(self, directory: Path, owner: str) -> None:
        self.directory = directory
        self.owner = owner
        super().__init__(
            f"the journal {directory} belongs to a running process ({owner}); stop it, or use another directory"
        )


class JournalRecordDamaged(JournalError):
    """One record cannot be read back; `sequence` says which. The others are not concerned."""

    code = "JOURNAL_RECORD_DAMAGED"

    def __init__(self, sequence: int, segment: int) -> None:
        self.sequence = sequence
        self.segment = segment
        super().__init__(f"record {sequence} is damaged in segment {segment} of the journal")


class DeadLetterDamaged(JournalError):
    """The file of one dead letter can't be read back; `detail` says why. It can only be discarded."""

    code = "DEAD_LETTER_DAMAGED"

    def __init__(self, letter_id: str, detail: str) -> None:
        self.letter_id = letter_id
        self.detail = detail
        super().__init__(f"the file of dead letter {letter_id} can't be read: {detail}; it can only be discarded")


class JournalVersionUnknown(JournalError):
    code = "JOURNAL_VERSION_UNKNOWN"

    def __init__(self, path: Path, version: int) -> None:
        self.path = path
        self.version = version
        super().__init__(
            f"{path} is of journal format {version}, which this version cannot read; start the version that wrote it, "
            "and let it store what is in there"
        )

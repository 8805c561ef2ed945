"""What routes are given: the open services, and their own parameters as values."""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime, timedelta
from typing import Annotated, Literal, TypedDict
from urllib.parse import parse_qsl, unquote_to_bytes

from fastapi import Depends, Path
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import Request

from persistence_service.bootstrap import Services
from persistence_service.errors import FieldProblem, ValidationFailed
from persistence_service.models.dead_letter import DeadLetterReason
from persistence_service.models.limits import MAX_PROBLEMS
from persistence_service.models.status import Status
from persistence_service.models.times import parse_time
from persistence_service.services.cleanup import (
    DEFAULT_CANCELLED_DAYS,
    DEFAULT_COMPLETED_DAYS,
    DEFAULT_FAILED_DAYS,
    AgeOf,
)
from persistence_service.services.dead_letters import LetterFilter
from persistence_service.services.query import MAX_OFFSET, POSITION, PageRequest, SessionFilter, TaskFilter
from persistence_service.settings import Durability


class AppState(TypedDict):
    """What the lifespan hands to every request."""

    services: Services


async def open_services(request: Request) -> Services:
    """The services of the running application."""
    services: Services = request.state.services
    return services


ServicesDep = Annotated[Services, Depends(open_services)]


async def well_formed(request: Request) -> None:
    """Lets a request pass whose path and query are UTF-8 and name each parameter once.

    Otherwise another id than the one sent would be looked up, or a filter be dropped without a word.

    Raises:
        ValidationFailed: names what is wrong.
    """
    query = request.scope["query_string"].decode("latin-1")
    try:
        unquote_to_bytes(request.scope.get("raw_path") or b"").decode()
        names = Counter(name for name, _ in parse_qsl(query, keep_blank_values=True, errors="strict"))
    except UnicodeDecodeError:
        raise ValidationFailed([FieldProblem(None, "", "the address must be percent-encoded UTF-8")]) from None
    repeated = [name for name, count in names.items() if count > 1]
    if repeated:
        reason = "is given more than once; only one value can be meant"
        raise ValidationFailed([FieldProblem(None, name[:_LONGEST_NAME], reason) for name in repeated[:MAX_PROBLEMS]])


async def no_body(request: Request) -> None:
    """Lets a request pass that has no body: one that is sent by mistake is not ignored without a word.

    Raises:
        ValidationFailed: there is one.
    """
    headers = request.headers
    if "transfer-encoding" in headers or headers.get("content-length", "0").strip("0"):
        raise ValidationFailed([FieldProblem(None, "body", "this call takes none; its parameters go into the address")])


_LONGEST_NAME = 200
_YEAR_S = 366 * 86_400
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_NUMBER = re.compile(r"-?\d+(\.0+)?", re.ASCII)
_DATE_LENGTH = len("2026-01-31")
_DAY_WITHOUT_ITS_LAST_MICROSECOND = timedelta(days=1) - timedelta(microseconds=1)


def _first_instant(text: str) -> datetime:
    """An RFC 3339 time; or a plain date, which means its beginning in UTC."""
    if _DATE.fullmatch(text):
        return parse_time(f"{text}T00:00:00Z")
    day, rest = text[: _DATE_LENGTH + 1], text[_DATE_LENGTH + 1 :]
    return parse_time(day + rest.replace(" ", "+"))  # a "+" in a query string that was not encoded arrives as a blank


def _last_instant(text: str) -> datetime:
    """As `_first_instant`, but a plain date means its end."""
    first = _first_instant(text)
    return first + _DAY_WITHOUT_ITS_LAST_MICROSECOND if _DATE.fullmatch(text) else first


def _date_or_time(text: str) -> str:
    try:
        _first_instant(text)
    except ValueError as exc:
        raise ValueError(f"must be a date such as 2026-01-31, or {exc}") from None
    return text


DateOrTime = Annotated[
    str,
    AfterValidator(_date_or_time),
    Field(
        description="RFC 3339 time (`2026-01-31T12:00:00Z`), or a date (`2026-01-31`): its whole day in UTC; years 1000 to 9999",
        json_schema_extra={"anyOf": [{"format": "date-time"}, {"format": "date"}], "pattern": "^[1-9]"},
    ),
]
SessionIdInPath = Annotated[str, Path(description="percent-encoded", examples=["s-2026-01-31-items"])]
TaskIdInPath = Annotated[
    str, Path(description="percent-encoded, `/` as `%2F`", examples=["s-2026-01-31-items:000042:zh"])
]
LetterIdInPath = Annotated[str, Path(examples=["5d2f0c6b1a9e4f7783c4b2a1908f7e6d"])]


def _plain_number(text: object) -> object:
    if isinstance(text, str) and not _NUMBER.fullmatch(text):
        raise ValueError("must be a whole number in digits")
    return text


# Without it " +1_0" would be ten. It comes last: before it the bounds are those of a number, in the schema too.
_IN_DIGITS = BeforeValidator(_plain_number)
Days = Annotated[int, Field(ge=0, le=100 * 366), _IN_DIGITS]
PageSize = Annotated[int, Field(ge=1, le=100), _IN_DIGITS]
Cursor = Annotated[
    str | None,
    Field(
        min_length=1,
        description="`next_cursor` of the answer before, with the same filters and order",
    ),
]


class Parameters(BaseModel):
    """The parameters of a call; any other is refused, so that a misspelt one does not go unheard."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoParameters(Parameters):
    """For calls that take none."""


class IntakeParameters(Parameters):
    """Parameters of the batch calls."""

    ack: Durability | None = Field(
        None, description="how safe the batch must be when it is acknowledged; by default what `buffer.ack` says"
    )


class IncompleteParameters(Parameters):
    """Parameters of `GET /recovery/incomplete-sessions`."""

    limit: PageSize = 20
    cursor: Cursor = None
    idle_seconds: float | None = Field(
        None,
        ge=0,
        le=100 * _YEAR_S,
        allow_inf_nan=False,
        description="only sessions without activity for so long; use the same value along a walk",
    )


class RestoreParameters(Parameters):
    """Parameters of `POST /recovery/restore/{id}`."""

    limit: Annotated[int, Field(ge=1, le=10_000, description="most tasks of the answer"), _IN_DIGITS] = 10_000
    cursor: Cursor = None
    include_failed: bool = Field(False, description="the failed tasks too")


class _Listing(Parameters):
    page: Annotated[
        int,
        Field(
            ge=1,
            json_schema_extra={"maximum": MAX_OFFSET},  # who goes beyond it is told of the cursor
            description="by number, at most 100,000 records deep; deeper walks follow `next_cursor`",
        ),
        _IN_DIGITS,
    ] = 1
    page_size: PageSize = 20
    cursor: Cursor = None
    count: bool = Field(True, description="false leaves `total` null, which saves counting")
    fresh: bool = Field(False, description="first flush what this service accepted before the call")

    def _page(self, sort_by: str, order: str) -> PageRequest:
        return PageRequest(
            page=self.page,
            page_size=self.page_size,
            sort_by=POSITION if sort_by == "position" else (sort_by,),
            descending=order == "desc",
            cursor=self.cursor,
            count=self.count,
            fresh=self.fresh,
        )


class SessionList(_Listing):
    """Parameters of `GET /sessions`."""

    status: Status | None = None
    from_date: DateOrTime | None = None
    to_date: DateOrTime | None = None
    filename: str | None = Field(None, max_length=255, description="contained in the file's name; case counts")
    llm_provider: str | None = Field(None, max_length=50)
    sort_by: Literal["created_at", "updated_at", "filename", "status", "total_tasks"] = "created_at"
    order: Literal["asc", "desc"] = "desc"

    def which(self) -> SessionFilter:
        """The filter."""
        return SessionFilter(
            status=self.status,
            from_date=_first_instant(self.from_date) if self.from_date else None,
            to_date=_last_instant(self.to_date) if self.to_date else None,
            filename=self.filename,
            llm_provider=self.llm_provider,
        )

    def wanted(self) -> PageRequest:
        """The page."""
        return self._page(self.sort_by, self.order)


class TaskList(_Listing):
    """Parameters of `GET /tasks`."""

    session_id: str | None = Field(None, max_length=36)
    status: Status | None = None
    sheet_name: str | None = Field(None, max_length=255)
    batch_id: str | None = Field(None, max_length=64)
    from_date: DateOrTime | None = None
    to_date: DateOrTime | None = None
    sort_by: Literal["created_at", "updated_at", "task_id"] = "created_at"
    order: Literal["asc", "desc"] = "desc"

    def which(self) -> TaskFilter:
        """The filter."""
        return TaskFilter(
            session_id=self.session_id,
            status=self.status,
            sheet_name=self.sheet_name,
            batch_id=self.batch_id,
            from_date=_first_instant(self.from_date) if self.from_date else None,
            to_date=_last_instant(self.to_date) if self.to_date else None,
        )

    def wanted(self) -> PageRequest:
        """The page."""
        return self._page(self.sort_by, self.order)


class SessionTaskList(_Listing):
    """Parameters of `GET /sessions/{id}/tasks`."""

    status: Status | None = None
    sheet_name: str | None = Field(None, max_length=255)
    sort_by: Literal["position", "created_at", "updated_at", "task_id"] = "position"
    order: Literal["asc", "desc"] | None = Field(None, description="asc by position, else desc")

    def which(self, session_id: str) -> TaskFilter:
        """The filter."""
        return TaskFilter(session_id=session_id, status=self.status, sheet_name=self.sheet_name)

    def wanted(self) -> PageRequest:
        """The page."""
        return self._page(self.sort_by, self.order or ("asc" if self.sort_by == "position" else "desc"))


class CleanupParameters(Parameters):
    """Parameters of `POST /sessions/cleanup`."""

    completed_days: Days = Field(DEFAULT_COMPLETED_DAYS, description="completed sessions go after so many days")
    failed_days: Days = Field(DEFAULT_FAILED_DAYS, description="failed ones")
    cancelled_days: Days = Field(DEFAULT_CANCELLED_DAYS, description="cancelled ones")
    age_of: AgeOf = Field(AgeOf.LAST_ACTIVITY, description="since when days are counted")
    dry_run: bool = Field(False, description="only count what would be deleted")


class _LetterFilter(Parameters):
    reason: DeadLetterReason | None = None
    collection: Literal["translation_sessions", "translation_tasks"] | None = None
    session_id: str | None = Field(None, max_length=36)

    def which(self) -> LetterFilter:
        """The filter."""
        return LetterFilter(reason=self.reason, collection=self.collection, session_id=self.session_id)


class LetterList(_LetterFilter):
    """Parameters of `GET /dead-letters`."""

    page_size: PageSize = 20
    cursor: Cursor = None
    order: Literal["asc", "desc"] = Field("desc", description="by when they were refused first")
    count: bool = Field(True, description="false leaves `total` null, which saves counting")


class ReplayParameters(_LetterFilter):
    """Parameters of `POST /dead-letters/replay`."""

    dry_run: bool = Field(False, description="only count the letters that match")

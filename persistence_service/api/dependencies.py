"""What routes are given: the open services, and their own parameters as values."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Annotated, Literal, TypedDict

from fastapi import Depends
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.requests import Request

from persistence_service.bootstrap import Services
from persistence_service.models.status import Status
from persistence_service.models.times import parse_time
from persistence_service.services.query import MAX_OFFSET, POSITION, PageRequest, SessionFilter, TaskFilter


class AppState(TypedDict):
    """What the lifespan hands to every request."""

    services: Services


def open_services(request: Request) -> Services:
    """The services of the running application."""
    services: Services = request.state.services
    return services


ServicesDep = Annotated[Services, Depends(open_services)]


def _date_or_time(text: str) -> str:
    _instant(text, time.min)
    return text


def _instant(text: str, day_time: time) -> datetime:
    """An RFC 3339 time; or a plain date, which means `day_time` of that day in UTC."""
    if len(text) == len("2026-01-31"):
        try:
            return datetime.combine(date.fromisoformat(text), day_time, UTC)
        except ValueError:
            pass
    return parse_time(text.replace(" ", "+"))  # a "+" in a query string that was not encoded arrives as a blank


DateOrTime = Annotated[
    str, AfterValidator(_date_or_time), Field(description="RFC 3339 time, or a date: its whole day in UTC")
]


class _Listing(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    page: int = Field(1, ge=1, le=MAX_OFFSET, description="page by number; deep walks follow next_cursor")
    page_size: int = Field(20, ge=1, le=100)
    cursor: str | None = Field(None, description="next_cursor of the answer before, with the same filters and order")
    count: bool = Field(True, description="false leaves total null, which saves counting")
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
            from_date=_instant(self.from_date, time.min) if self.from_date else None,
            to_date=_instant(self.to_date, time.max) if self.to_date else None,
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
            from_date=_instant(self.from_date, time.min) if self.from_date else None,
            to_date=_instant(self.to_date, time.max) if self.to_date else None,
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

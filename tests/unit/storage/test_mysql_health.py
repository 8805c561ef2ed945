"""What the health check tells before it has an answer, and when looking fails as it should not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from structlog.testing import capture_logs

from persistence_service.storage.mysql import health
from persistence_service.storage.mysql.connection import MysqlConnection
from persistence_service.storage.mysql.health import HealthCheck
from persistence_service.storage.mysql.options import MysqlOptions
from persistence_service.storage.mysql.pool import ConnectionPool

T = TypeVar("T")
_OPTIONS = MysqlOptions((("db.example", 3306),), "u", "", "d")


class _Busy(ConnectionPool):
    """No connection is ever free."""

    async def read(self, work: Callable[[MysqlConnection], Awaitable[T]]) -> T:
        await asyncio.Event().wait()
        raise AssertionError(work)


class _Mistaken(ConnectionPool):
    """Has a mistake."""

    async def read(self, work: Callable[[MysqlConnection], Awaitable[T]]) -> T:
        raise LookupError(work)


async def test_nothing_is_healthy_before_it_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_WAIT_S", 0.01)
    check = HealthCheck(_Busy(_OPTIONS))
    told = await check.check()
    check.stop()

    assert (told.healthy, told.detail) == (False, "the database was not looked at yet")


async def test_a_look_that_fails_unexpectedly_is_told_each_time_and_logged_once() -> None:
    check = HealthCheck(_Mistaken(_OPTIONS))
    with capture_logs() as logs:
        told = [await check.check() for _ in range(3)]

    assert not any(each.healthy for each in told)
    assert all("see its log" in each.detail for each in told)
    assert [line["event"] for line in logs] == ["mysql.health_check_failed"]

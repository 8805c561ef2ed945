"""Until the journal of the last run is read, a stored record may be older than what was acknowledged."""

from pathlib import Path

import pytest

from persistence_service.bootstrap import build_registry, open_services
from persistence_service.errors import Replaying, StorageUnavailable
from persistence_service.models.session import SessionRequest
from persistence_service.models.status import Status
from persistence_service.models.task import TaskRequest
from persistence_service.services.query import PageRequest, TaskFilter
from persistence_service.settings import BufferSettings, JournalSettings, ServiceSettings, Settings, SqliteSettings
from persistence_service.storage.collections import SESSIONS
from persistence_service.storage.registry import StorageRegistry
from persistence_service.testing.faulty_backend import FaultyBackend

SESSION = SessionRequest("s", "file.xlsx", "/file.xlsx", Status.PROCESSING, "human")


def task(task_id: str, status: Status) -> TaskRequest:
    return TaskRequest(task_id, "s", "b", "Sheet", 1, "target", "text", status)


def settings_in(folder: Path) -> Settings:
    return Settings(
        service=ServiceSettings(shutdown_timeout=0),
        journal=JournalSettings(directory=folder / "journal"),
        sqlite=SqliteSettings(path=folder / "persistence.db"),
    )


def faulty(settings: Settings) -> tuple[FaultyBackend, StorageRegistry]:
    backend = FaultyBackend(build_registry(settings).backend_for(SESSIONS))
    registry = StorageRegistry()
    registry.register("sqlite", lambda: backend)
    registry.route_all("sqlite", {})
    return backend, registry


async def leave_two_completed_in_the_journal(settings: Settings) -> None:
    """Tasks `first` and `second` are stored as processing, and acknowledged as completed."""
    settings = settings.model_copy(update={"buffer": BufferSettings()})
    backend, registry = faulty(settings)
    async with open_services(settings, registry=registry) as services:
        await services.buffer.accept_sessions([SESSION])
        await services.buffer.accept_tasks([task(name, Status.PROCESSING) for name in ("first", "second")])
        await services.buffer.flush()
        backend.go_away(StorageUnavailable("away until the end of this run"))
        await services.buffer.accept_tasks([task("first", Status.COMPLETED)])
        await services.buffer.accept_tasks([task("second", Status.COMPLETED)])


async def test_a_single_read_during_replay_never_shows_less_than_was_acknowledged(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    await leave_two_completed_in_the_journal(settings)
    _, registry = faulty(settings)
    async with open_services(settings, registry=registry) as services:
        assert services.buffer.replaying, "it begins when this test waits for the first time"
        with pytest.raises(Replaying):
            await services.query.task("second")
        with pytest.raises(Replaying):
            await services.query.session("s")
        await services.buffer.flush()
        assert (await services.query.task("second")).status is Status.COMPLETED
        assert (await services.query.session("s")).session_id == "s"


async def test_a_list_during_replay_shows_what_is_stored_of_a_known_session(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    await leave_two_completed_in_the_journal(settings)
    _, registry = faulty(settings)
    async with open_services(settings, registry=registry) as services:
        hidden = hide_segments(settings.journal.directory)  # so that replay can't go on
        listed = await services.query.tasks_of("s", TaskFilter(session_id="s"), PageRequest())
        assert [item.status for item in listed.items] == [Status.PROCESSING] * 2
        with pytest.raises(Replaying):
            await services.query.tasks_of("another", TaskFilter(session_id="another"), PageRequest())
        for path, place in hidden.items():
            path.rename(place)


def hide_segments(directory: Path) -> dict[Path, Path]:
    """Rename the segments of the last run; returns where they belong."""
    segments = sorted(directory.glob("*.seg"))[:-1]
    assert segments
    hidden = {path.with_suffix(".hidden"): path for path in segments}
    for path, place in hidden.items():
        place.rename(path)
    return hidden

"""How the process starts, stops and dies: what was acknowledged is there afterwards, and a wrong start says what is wrong."""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from persistence_service.errors import TaskNotFound
from persistence_service.torture.ledger import Ledger, read
from tests.e2e.caller import Caller, as_json
from tests.e2e.conftest import StartService
from tests.e2e.database import Database
from tests.e2e.sample import sample_workbooks
from tests.e2e.service import ROOT, ServiceProcess, command
from tests.e2e.worker import Worker

EXIT_CONFIGURATION = 2
EXIT_UNUSABLE = 3
# Nothing is flushed before it is asked for.
NO_FLUSH: Mapping[str, object] = {"buffer.flush_interval": "1h", "buffer.max_buffer_size": 50_000}


async def report_some(caller: Caller) -> Ledger:
    """Report a session and its 200 tasks; returns what was acknowledged."""
    ledger = Ledger()
    workbook = sample_workbooks()[0]
    worker = Worker(caller, ledger, workbook, batch_size=len(workbook.tasks))
    await worker.work()
    assert len(ledger.tasks_kept) == len(workbook.tasks)
    return ledger


async def test_what_is_buffered_at_sigterm_is_stored_before_the_process_ends(
    database: Database, start_service: StartService
) -> None:
    service = await start_service({**database.settings(), **NO_FLUSH})
    async with Caller.to(service) as caller:
        ledger = await report_some(caller)
        assert (await caller.get("/tasks"))["total"] == 0

        assert await service.terminate() == 0
        tasks = len(ledger.tasks_kept)
        assert database.stored_rows() == {
            "translation_sessions": (1, 1),
            "translation_tasks": (tasks, tasks),
        }

        await service.start()
        assert (await caller.health())["journal"]["unstored_items"] == 0
        rows = [read(row) for row in await caller.walk("/tasks")]
    assert ledger.judge(rows)
    assert len(rows) == tasks


async def test_a_batch_acknowledged_just_before_a_kill_is_read_after_the_restart(
    database: Database, start_service: StartService
) -> None:
    service = await start_service({**database.settings(), **NO_FLUSH})
    async with Caller.to(service) as caller:
        ledger = await report_some(caller)
        await service.kill()
        assert database.stored_rows()["translation_tasks"] == (0, 0)

        await service.start()
        for task_id, task in ledger.tasks_kept.items():
            # At once, or 503 as long as the journal is read: never 404.
            assert read(as_json(await caller.client.task(task_id))) == task
        with pytest.raises(TaskNotFound):
            await caller.client.task("unknown")
        assert (await caller.get("/tasks"))["total"] == 0

        await caller.client.flush()
        rows = [read(row) for row in await caller.walk("/tasks")]
    assert ledger.judge(rows)
    assert len(rows) == len(ledger.tasks_kept)


async def test_what_is_buffered_survives_kill_after_kill(database: Database, start_service: StartService) -> None:
    service = await start_service({**database.settings(), **NO_FLUSH})
    async with Caller.to(service) as caller:
        ledger = await report_some(caller)
        for _ in range(3):
            await service.restart_after_kill()
        rows = [read(row) for row in await caller.walk("/tasks", fresh=True)]
    assert ledger.judge(rows)
    assert len(rows) == len(ledger.tasks_kept)


class ServedByUvicorn(ServiceProcess):
    """`uvicorn main:app`, configured by the environment alone."""

    def __init__(self, folder: Path, database: Database) -> None:
        super().__init__(folder)
        settings = database.settings() | {"journal.directory": folder / "journal", "logging.file": ""}
        self._command = [sys.executable, "-m", "uvicorn", "main:app", f"--app-dir={ROOT}", "--port=0"]
        self._environment |= {
            f"PERSISTENCE_{key.upper().replace('.', '__')}": str(value) for key, value in settings.items()
        }


async def test_uvicorn_main_app_serves_with_the_same_configuration_and_stores_what_it_took(
    database: Database, tmp_path: Path
) -> None:
    service = ServedByUvicorn(tmp_path, database)
    try:
        await service.start()
        async with Caller.to(service) as caller:
            assert (await caller.health())["status"] == "healthy"
            ledger = await report_some(caller)
        await service.terminate()
    finally:
        await service.close()
    tasks = len(ledger.tasks_kept)
    assert database.stored_rows()["translation_tasks"] == (tasks, tasks)


async def test_a_stop_ends_slow_requests_in_the_one_form_and_flushes_within_its_time(
    database: Database,
    start_service: StartService,
) -> None:
    for time in ("2s", "30s"):  # a machine may do nothing for all of two seconds
        service = await start_service({**database.settings(), **NO_FLUSH, "service.shutdown_timeout": time})
        async with Caller.to(service) as caller:
            ledger = await report_some(caller)
        await _stop_with_a_slow_request(service)
        tasks = len(ledger.tasks_kept)
        if database.stored_rows()["translation_tasks"] == (tasks, tasks):
            break
    else:
        pytest.fail("what was buffered is not stored")


async def _stop_with_a_slow_request(service: ServiceProcess) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(service.url).port)
    head = "POST /api/v1/translation/tasks/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(f'{head}Content-Length: 1000\r\n\r\n{{"tasks": ['.encode())
    await writer.drain()
    async with httpx.AsyncClient(verify=False, trust_env=False, timeout=60) as client:  # noqa: S501  # plain HTTP
        assert (await client.get(f"{service.url}/health/live")).status_code == httpx.codes.OK  # the slow one is in hand
    assert await service.terminate() == 0
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"error_code":"SHUTTING_DOWN"' in answer
    assert "Traceback" not in service.log_tail()


async def test_a_second_process_on_the_same_journal_says_whose_it_is_and_ends(start_service: StartService) -> None:
    service = await start_service()
    code, message = await run_to_its_end(*command(service.folder, {"sqlite.path": service.folder / "other.db"}))
    assert code == EXIT_UNUSABLE
    assert f"the journal {service.folder / 'journal'} belongs to a running process" in message
    assert "Traceback" not in message
    async with Caller.to(service) as caller:
        assert (await caller.health())["status"] == "healthy"


async def test_a_wrong_configuration_ends_the_start_with_every_problem_at_once(tmp_path: Path) -> None:
    wrong = {
        "buffer.flush_interval": "soon",
        "service.port": 70_000,
        "journal.directori": "x",
        "storage.backend": "postgres",
        "storage.routes": "nosuch=memory",
    }
    options = [f"--set={key}={value}" for key, value in wrong.items()]
    code, message = await run_to_its_end(sys.executable, str(ROOT / "main.py"), "serve", *options, folder=tmp_path)
    assert code == EXIT_CONFIGURATION
    for key, value in wrong.items():
        assert f"command line --set {key}" in message or key == "service.port"
        assert str(value).replace("=", ": ") in message
    assert "Traceback" not in message
    assert not any(os.scandir(tmp_path))


@pytest.mark.parametrize("key", ["storage.backend", "storage.routes"])
async def test_an_unknown_backend_ends_the_start_with_the_list_of_known_ones(tmp_path: Path, key: str) -> None:
    value = "postgres" if key == "storage.backend" else '{"translation_tasks": "postgres"}'
    code, message = await run_to_its_end(*command(tmp_path, {key: value}), folder=tmp_path)
    assert code == EXIT_CONFIGURATION
    assert "postgres" in message
    assert "memory, mysql, sqlite" in message
    assert "Traceback" not in message


async def run_to_its_end(*arguments: str, folder: Path | None = None) -> tuple[int, str]:
    """The exit code of a process that should end by itself, and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        *arguments, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(150):
            output, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, output.decode()

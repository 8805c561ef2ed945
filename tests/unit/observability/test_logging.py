"""The log: one pipeline, safe lines, a rotating file, nothing left behind."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from persistence_service.errors import ConfigurationError
from persistence_service.observability.logging import OncePer, configure_logging
from persistence_service.settings import LogFormat, LoggingSettings, LogLevel

JSON = LoggingSettings(format=LogFormat.JSON, file=None)
CONSOLE = LoggingSettings(format=LogFormat.CONSOLE, file=None)
NAMES = ("uvicorn", "uvicorn.error", "uvicorn.access", "alembic", "sqlalchemy", "aiosqlite", "httpx", "asyncio")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def no_context() -> Iterator[None]:
    structlog.contextvars.clear_contextvars()
    yield
    structlog.contextvars.clear_contextvars()


def _lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def _state() -> object:
    loggers = [logging.getLogger(), *map(logging.getLogger, NAMES)]
    state = [(logger.name, logger.level, logger.handlers[:], logger.propagate, logger.disabled) for logger in loggers]
    return state, structlog.is_configured(), structlog.get_config()["processors"]


def test_a_line_has_time_level_logger_and_what_is_bound() -> None:
    stream = io.StringIO()
    with configure_logging(JSON, stream=stream):
        structlog.contextvars.bind_contextvars(request_id="r1")
        structlog.get_logger("here").info("flushed", rows=3, name="名")
    (line,) = _lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", str(line.pop("timestamp")))
    assert line == {
        "message": "flushed",
        "rows": 3,
        "name": "名",
        "request_id": "r1",
        "level": "info",
        "logger": "here",
    }
    assert "名" in stream.getvalue()


@pytest.mark.parametrize("name", ["uvicorn.error", "uvicorn.access", "alembic.runtime.migration", "anything"])
def test_the_standard_library_goes_the_same_way(name: str) -> None:
    stream = io.StringIO()
    with configure_logging(JSON, stream=stream):
        structlog.contextvars.bind_contextvars(request_id="r1")
        logging.getLogger(name).warning("%s of %d", "one", 2, extra={"color_message": "\x1b[1m", "port": 5})
    (line,) = _lines(stream)
    assert line["message"] == "one of 2"
    assert (line["logger"], line["level"], line["request_id"], line["port"]) == (name, "warning", "r1", 5)
    assert "color_message" not in line


def test_loggers_that_uvicorn_configured_itself_are_taken_over_and_given_back() -> None:
    logger = logging.getLogger("uvicorn.access")
    own = logging.StreamHandler(io.StringIO())
    logger.addHandler(own)
    logger.propagate = False
    stream = io.StringIO()
    try:
        with configure_logging(JSON, stream=stream):
            logger.warning("GET /")
        assert len(_lines(stream)) == 1
        assert own.stream.getvalue() == ""
        assert logger.handlers == [own]
        assert not logger.propagate
    finally:
        logger.removeHandler(own)
        logger.propagate = True


@pytest.mark.parametrize("name", ["sqlalchemy.engine.Engine", "aiosqlite", "httpx", "aiomysql"])
def test_libraries_that_print_values_stay_quiet_at_every_level(name: str) -> None:
    stream = io.StringIO()
    with configure_logging(JSON.model_copy(update={"level": LogLevel.DEBUG}), stream=stream):
        logging.getLogger(name).info("INSERT … %s", "cell text")
        logging.getLogger(name).debug("cell text")
        logging.getLogger("ours").debug("seen")
    assert [line["message"] for line in _lines(stream)] == ["seen"]


def test_what_is_below_the_level_is_not_written() -> None:
    stream = io.StringIO()
    with configure_logging(JSON.model_copy(update={"level": LogLevel.ERROR}), stream=stream):
        structlog.get_logger("x").warning("no")
        structlog.get_logger("x").error("yes %s", "it is")
    assert [line["message"] for line in _lines(stream)] == ["yes it is"]


@pytest.mark.parametrize("settings", [JSON, CONSOLE])
@pytest.mark.parametrize("library", [True, False])
def test_a_traceback_is_shown_without_local_variables(settings: LoggingSettings, library: bool) -> None:
    stream = io.StringIO()
    with configure_logging(settings, stream=stream):
        try:
            _fail("cell " + "text")
        except ValueError:
            logger = logging.getLogger("x") if library else structlog.get_logger("x")
            logger.exception("failed")
    assert "ValueError: sorry" in stream.getvalue()
    assert "in _fail" in stream.getvalue()
    assert "cell text" not in stream.getvalue()


def _fail(secret: str) -> None:
    raise ValueError("sorry")


@pytest.mark.parametrize("settings", [JSON, CONSOLE])
def test_a_record_is_one_line_whatever_it_says(settings: LoggingSettings) -> None:
    stream = io.StringIO()
    with configure_logging(settings, stream=stream):
        structlog.get_logger("x").info("a\nb\x1b[31m\u2028\x85", key="c\nd\x1b[31m\u2028\x85")
        logging.getLogger("x").info("a\r\nb")
    assert len(stream.getvalue().splitlines()) == 2
    assert "\x1b[31m" not in stream.getvalue()


def test_the_console_is_coloured_on_a_terminal_alone() -> None:
    for stream, coloured in ((Terminal(), True), (io.StringIO(), False)):
        with configure_logging(CONSOLE, stream=stream):
            structlog.get_logger("x").info("hello")
        assert ("\x1b[" in stream.getvalue()) is coloured


def test_the_file_has_the_lines_too_without_colours(tmp_path: Path) -> None:
    path = tmp_path / "new" / "service.log"
    with configure_logging(CONSOLE.model_copy(update={"file": path}), stream=Terminal()):
        structlog.get_logger("x").info("hello", half="\ud800")
    text = path.read_text(encoding="utf-8")
    assert "hello" in text
    assert "\x1b" not in text


def test_half_a_character_does_not_lose_a_json_line(tmp_path: Path) -> None:
    path = tmp_path / "service.log"
    with configure_logging(JSON.model_copy(update={"file": path}), stream=io.StringIO()):
        structlog.get_logger("x").info("hello", half="\ud800")
    assert json.loads(path.read_text(encoding="utf-8"))["half"] == "\ud800"


def test_the_file_rotates_and_keeps_so_many(tmp_path: Path) -> None:
    path = tmp_path / "service.log"
    settings = LoggingSettings(format=LogFormat.JSON, file=path, rotate_bytes=1024, rotate_keep=2)
    with configure_logging(settings, stream=io.StringIO()):
        for number in range(100):
            structlog.get_logger("x").info("line", number=number)
    files = sorted(file.name for file in tmp_path.iterdir())
    assert files == ["service.log", "service.log.1", "service.log.2"]
    assert all(file.stat().st_size <= 1024 for file in tmp_path.iterdir())
    assert '"number": 99' in path.read_text()


def test_a_file_that_cannot_be_opened_is_a_configuration_error_and_changes_nothing(tmp_path: Path) -> None:
    before = _state()
    for path in (tmp_path, tmp_path / "file" / "service.log"):
        (tmp_path / "file").touch()
        with pytest.raises(ConfigurationError) as caught:
            configure_logging(LoggingSettings(file=path), stream=io.StringIO())
        (problem,) = caught.value.problems
        assert problem.key == "logging.file"
        assert str(path) in problem.value
    assert _state() == before


def test_a_file_that_stops_taking_lines_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    with configure_logging(JSON.model_copy(update={"file": Path("/dev/full")}), stream=stream):
        for _ in range(5):
            structlog.get_logger("x").info("hello")
    assert len(_lines(stream)) == 5
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("1 line(s) not written to /dev/full: [Errno 28]")


def test_closing_leaves_everything_as_it_was(tmp_path: Path) -> None:
    before = _state()
    configured = configure_logging(LoggingSettings(file=tmp_path / "x.log"))
    assert _state() != before
    configured.close()
    configured.close()
    assert _state() == before


def test_an_earlier_configuration_of_structlog_comes_back() -> None:
    outer, inner = io.StringIO(), io.StringIO()
    with configure_logging(JSON, stream=outer):
        before = _state()
        with configure_logging(JSON, stream=inner):
            structlog.get_logger("x").info("both")
        assert _state() == before
        structlog.get_logger("x").info("outer")
    assert [line["message"] for line in _lines(inner)] == ["both"]
    assert [line["message"] for line in _lines(outer)] == ["both", "outer"]


# ---------------------------------------------------------------------------------------------------- OncePer


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_failure_that_repeats_is_told_at_first_and_then_counted_now_and_then() -> None:
    clock = Clock()
    failures = OncePer(10.0, clock)
    told = []
    for second in range(31):
        clock.now = float(second)
        told.append(failures.occurred("down"))
    assert [(second, count) for second, count in enumerate(told) if count] == [(0, 1), (10, 10), (20, 10), (30, 10)]
    assert failures.ended("down") == 31
    assert failures.ended("down") == 0
    assert failures.occurred("down") == 1


def test_failures_are_told_apart_by_their_key() -> None:
    failures = OncePer(10.0, Clock())
    assert (failures.occurred("a"), failures.occurred("b"), failures.occurred("a")) == (1, 1, 0)


def test_the_number_of_keys_is_bounded() -> None:
    failures = OncePer(10.0, Clock())
    for number in range(257):
        assert failures.occurred(str(number)) == 1
    assert failures.ended("0") == 0
    assert failures.ended("256") == 1


def test_a_worker_has_its_number_in_every_line_and_a_file_of_its_own(tmp_path: Path) -> None:
    stream = io.StringIO()
    settings = JSON.model_copy(update={"file": tmp_path / "service.log"})
    with configure_logging(settings, stream=stream, worker=3):
        structlog.get_logger("ours").info("one")
        logging.getLogger("uvicorn.error").info("two")
    assert [(line["message"], line["worker"]) for line in _lines(stream)] == [("one", 3), ("two", 3)]
    written = (tmp_path / "service.worker-3.log").read_text().splitlines()
    assert [json.loads(line)["message"] for line in written] == ["one", "two"]
    assert not (tmp_path / "service.log").exists()

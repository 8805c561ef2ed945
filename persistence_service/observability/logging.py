"""The service's log: one pipeline for structlog and the standard library, to stderr and to a rotating file.

Lines carry UTC times with ``Z``, level, logger, the event, and whatever is bound to the context (`request_id`, bound by the
HTTP layer through ``structlog.contextvars``). Modules log through ``structlog.get_logger(__name__)``. What libraries log
takes the same way; those that would print statements with their values stay at WARNING or above whatever the level, so
that no text of a record gets into the log, and tracebacks never show local variables.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from persistence_service.errors import ConfigurationError, ConfigurationProblem
from persistence_service.settings import LogFormat, LoggingSettings

# These bring handlers of their own, or keep their records from the root.
_REROUTED = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "alembic", "sqlalchemy")
# These log statements, values, addresses, or at each start what nobody asked for, at INFO or DEBUG.
_QUIETED = ("alembic", "sqlalchemy", "aiosqlite", "aiomysql", "pymysql", "asyncio", "httpx", "httpcore", "multipart")
_LINE_BREAKS_IN_JSON = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029)}
_CONTROL_CHARACTERS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


@dataclass(slots=True)
class _Run:
    total: int
    unreported: int
    reported_at: float


class OncePer:
    """Keeps a failure that repeats from flooding the log: its first occurrence is told at once, then a count now and then.

    Failures are told apart by `key`, of which the 256 latest are remembered. Not for several threads at once.
    """

    _MAX_KEYS = 256

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._runs: dict[str, _Run] = {}

    def occurred(self, key: str = "") -> int:
        """Count an occurrence; return how many a line should speak for now: 1 at the first, 0 for "stay silent"."""
        now = self._clock()
        run = self._runs.get(key)
        if run is None:
            if len(self._runs) >= self._MAX_KEYS:
                del self._runs[next(iter(self._runs))]
            self._runs[key] = _Run(total=1, unreported=0, reported_at=now)
            return 1
        run.total += 1
        run.unreported += 1
        if now - run.reported_at < self._interval_s:
            return 0
        count, run.unreported, run.reported_at = run.unreported, 0, now
        return count

    def ended(self, key: str = "") -> int:
        """Forget a failure that is over; return how often it occurred in all, 0 when it did not. The next is told at once."""
        run = self._runs.pop(key, None)
        return 0 if run is None else run.total


class ConfiguredLogging:
    """What `configure_logging` set up; `close` takes it all back. Also a context manager. Closing twice is harmless."""

    def __init__(self, undo: list[Callable[[], None]]) -> None:
        self._undo = undo

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Flush and close the handlers, and leave logging and structlog as they were."""
        while self._undo:
            self._undo.pop()()


def configure_logging(
    settings: LoggingSettings, *, stream: TextIO | None = None, worker: int | None = None
) -> ConfiguredLogging:
    """Send every logger of the process through one pipeline to `stream` (stderr unless given) and `settings.file`.

    One of several workers has its number in every line, and a file of its own beside `settings.file`, since processes can't
    rotate one together. Handlers that are on the root logger already stay there. The caller closes what is returned.

    Raises:
        ConfigurationError: the file cannot be opened for writing; nothing was changed.
    """
    console = logging.StreamHandler(sys.stderr if stream is None else stream)
    first = _shared_processors(worker)
    console.setFormatter(_formatter(settings.format, first, colors=_is_terminal(console.stream)))
    handlers: list[logging.Handler] = [console]
    if settings.file is not None:
        file = _open_file(_file_of(settings.file, worker), settings)
        file.setFormatter(_formatter(settings.format, first, colors=False))
        handlers.append(file)
    undo: list[Callable[[], None]] = [_configure_structlog(first)]
    undo += [_reroute(logging.getLogger(name)) for name in _REROUTED]
    undo += [_quiet(logging.getLogger(name)) for name in _QUIETED]
    undo.append(_attach(logging.getLogger(), handlers, settings.level.value))
    return ConfiguredLogging(undo)


# --------------------------------------------------------------------------------------------------- pipeline


def _shared_processors(worker: int | None) -> list[Processor]:
    def add_worker(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["worker"] = worker
        return event

    return [
        structlog.contextvars.merge_contextvars,
        *([] if worker is None else [add_worker]),
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _formatter(form: LogFormat, first: list[Processor], *, colors: bool) -> structlog.stdlib.ProcessorFormatter:
    last: list[Processor]
    if form is LogFormat.JSON:
        last = [
            structlog.processors.format_exc_info,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(_one_line_json),
        ]
    else:
        # The default traceback would show local variables, which may hold texts and secrets.
        plain = structlog.dev.plain_traceback
        last = [
            _escape_event,
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain, repr_native_str=True),
        ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), _drop_color_message, *first],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )


def _one_line_json(event: object, **options: Any) -> str:  # noqa: ANN401 - handed on to json
    """Keep one record one line for every reader: JSON itself leaves the line breaks beyond ASCII as they are."""
    return json.dumps(event, ensure_ascii=False, **options).translate(_LINE_BREAKS_IN_JSON)


def _escape_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Keep one record one line on a console; values are quoted by the renderer, the event is not."""
    event["event"] = str(event.get("event", "")).translate(_CONTROL_CHARACTERS)
    return event


def _drop_color_message(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event.pop("color_message", None)
    return event


def _is_terminal(stream: TextIO) -> bool:
    return bool(getattr(stream, "isatty", lambda: False)())


# ------------------------------------------------------------------------------------------------------- file


class _LogFile(RotatingFileHandler):
    """A rotating file whose own failures (a full disk) are told on stderr now and then instead of once a line."""

    def __init__(self, path: Path, settings: LoggingSettings) -> None:
        self._failures = OncePer(60.0)
        super().__init__(
            path,
            maxBytes=settings.rotate_bytes,
            backupCount=settings.rotate_keep,
            encoding="utf-8",
            errors="backslashreplace",
        )

    def close(self) -> None:
        """Close the file even if what it still holds cannot be written; the stop of the service goes on."""
        with suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - the name and form are logging's
        count = self._failures.occurred()
        if not count:
            return
        with suppress(OSError, ValueError):  # stderr may be gone as well, and logging never fails its caller
            print(f"{count} line(s) not written to {self.baseFilename}: {sys.exception()}", file=sys.stderr)  # noqa: T201 - the log itself fails


def _file_of(path: Path, worker: int | None) -> Path:
    return path if worker is None else path.with_name(f"{path.stem}.worker-{worker}{path.suffix}")


def _open_file(path: Path, settings: LoggingSettings) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _LogFile(path, settings)
    except OSError as error:
        reason = f"a file that can be opened for writing, or null for none: {error.strerror or error}"
        raise ConfigurationError([ConfigurationProblem("log file", "logging.file", repr(str(path)), reason)]) from error


# ---------------------------------------------------------------------------------- changes, and their undoing


def _configure_structlog(first: list[Processor]) -> Callable[[], None]:
    before = structlog.get_config() if structlog.is_configured() else None
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *first,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )

    def undo() -> None:
        if before is None:
            structlog.reset_defaults()
        else:
            structlog.configure(**before)

    return undo


def _attach(root: logging.Logger, handlers: list[logging.Handler], level: str) -> Callable[[], None]:
    before = root.level
    root.setLevel(level)
    for handler in handlers:
        root.addHandler(handler)

    def undo() -> None:
        root.setLevel(before)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()

    return undo


def _reroute(logger: logging.Logger) -> Callable[[], None]:
    handlers, propagate, disabled = logger.handlers[:], logger.propagate, logger.disabled
    logger.handlers, logger.propagate, logger.disabled = [], True, False

    def undo() -> None:
        logger.handlers, logger.propagate, logger.disabled = handlers, propagate, disabled

    return undo


def _quiet(logger: logging.Logger) -> Callable[[], None]:
    before = logger.level
    logger.setLevel(max(before, logging.WARNING))
    return lambda: logger.setLevel(before)

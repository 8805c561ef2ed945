"""The control socket of a worker: where its siblings ask it.

A line in, a line out, several times on a connection. While an answer takes long, empty lines say that it will come, so that
one who waits knows a worker at work from one that has stopped.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from persistence_service.errors import PersistenceError
from persistence_service.fleet.messages import (
    MAX_ANSWER_BYTES,
    MAX_QUESTION_BYTES,
    NOT_UNDERSTOOD,
    MessageError,
    Question,
    Refused,
    read_answer,
    read_question,
    write_answer,
    write_error,
    write_question,
    write_refusal,
)
from persistence_service.observability.logging import OncePer

A = TypeVar("A")
Answer = Callable[[Any], Awaitable[object]]
Answers = Mapping[type[Question[Any]], Answer]
"""What a worker says to each kind of question: a function of the question."""

PULSE_S: Final = 0.5
_BACKLOG: Final = 128
_MOST_CONNECTIONS: Final = 2048
_IDLE_S: Final = 120.0
_LINE_S: Final = 10.0
_TOLD: Final = 200
_TOLD_EVERY_S: Final = 60.0
_LOOK_EVERY_S: Final = 1.0
_log = structlog.get_logger(__name__)


class ControlServer:
    """Answers the questions of siblings. Whatever one of them sends harms nobody but its own connection.

    While an answer takes longer, there is a sign of life every `pulse_s`; every `look_every_s` it looks whether its socket is
    still where it was.
    """

    def __init__(self, answers: Answers, *, pulse_s: float = PULSE_S, look_every_s: float = _LOOK_EVERY_S) -> None:
        self._answers = answers
        self._pulse_s = pulse_s
        self._look_every_s = look_every_s
        self._server: asyncio.Server | None = None
        self._identity: os.stat_result | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._told = OncePer(_TOLD_EVERY_S)

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[None]:
        """Answer on a socket at `path`, which only this user may reach, until the end; one of a former worker goes."""
        await self._listen(path)
        staying = asyncio.create_task(self._stay_reachable(path), name="control socket")
        try:
            yield
        finally:
            staying.cancel()
            await asyncio.gather(staying, return_exceptions=True)
            self._close()
            _remove(path)
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _listen(self, path: Path) -> None:
        bound, identity = _bound(path)
        try:
            server = await asyncio.start_unix_server(self._connected, sock=bound, limit=MAX_QUESTION_BYTES)
        except BaseException:
            bound.close()
            raise
        self._close()
        self._server, self._identity = server, identity

    def _close(self) -> None:
        """Listen no more; who is connected stays so."""
        if self._server is not None:
            self._server.close()

    async def _stay_reachable(self, path: Path) -> None:
        """Listen anew whenever somebody has removed the socket, or the directory around it; until cancelled."""
        while True:
            await asyncio.sleep(self._look_every_s)
            if _is(path, self._identity):
                continue
            try:
                _make_private(path.parent)
                await self._listen(path)
            except OSError as exc:
                if times := self._told.occurred("unreachable"):
                    _log.error("control.unreachable", path=str(path), detail=str(exc), times=times)
            else:
                _log.warning("control.listening_anew", path=str(path), because="its socket was removed")

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "streams call this in a task"  # noqa: S101  # for the type checker
        if len(self._connections) >= _MOST_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # it went, or says nothing any more
        except (asyncio.LimitOverrunError, MessageError) as exc:
            if times := self._told.occurred(type(exc).__name__):
                closed = "its connection is closed"
                _log.warning("control.not_understood", detail=str(exc)[:_TOLD], now=closed, times=times)
        except asyncio.CancelledError:
            pass  # the worker ends; the streams' own callback would tell of it as a mistake
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(_IDLE_S):
                line = await reader.readuntil(b"\n")
            try:
                question = read_question(line)
            except MessageError as exc:
                await _send(writer, write_refusal(NOT_UNDERSTOOD, str(exc)[:_TOLD]))
                raise
            await _send(writer, await self._answered(question, writer))

    async def _answered(self, question: Question[Any], writer: asyncio.StreamWriter) -> bytes:
        work = asyncio.ensure_future(self._answers[type(question)](question))
        try:
            while not (await asyncio.wait((work,), timeout=self._pulse_s))[0]:
                await _send(writer, b"\n")
        finally:
            work.cancel()  # nothing happens if it is done
        return _line_of(work, question)


def _line_of(work: asyncio.Future[object], question: Question[Any]) -> bytes:
    try:
        return write_answer(work.result())
    except PersistenceError as exc:
        return write_error(exc)
    except Exception as exc:  # noqa: BLE001  # a supervision point: a mistake of ours in one answer is that answer's alone
        _log.error("control.failed", question=type(question).__name__, exc_info=exc)
        return write_refusal(PersistenceError.code, "a mistake of ours; its log tells more")


async def _send(writer: asyncio.StreamWriter, line: bytes) -> None:
    writer.write(line)
    async with asyncio.timeout(_LINE_S):
        await writer.drain()


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _is(path: Path, identity: os.stat_result | None) -> bool:
    try:
        return identity is not None and os.path.samestat(path.lstat(), identity)
    except OSError:
        return False


def _make_private(directory: Path) -> None:
    """Raises OSError when there is one that is not this user's alone."""
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(f"{directory} is not a directory of this user alone")


def _bound(path: Path) -> tuple[socket.socket, os.stat_result]:
    """A listening socket that nobody could reach before its file was made private; and its file."""
    _remove(path)
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(str(path))
        path.chmod(0o600)
        bound.listen(_BACKLOG)
        return bound, path.lstat()
    except BaseException:
        bound.close()
        raise


class Line:
    """A connection to a worker's control socket; after any failure or cancellation of `ask` it is to be closed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, path: Path) -> Line:
        """Raises OSError when nobody is there."""
        return cls(*await asyncio.open_unix_connection(str(path), limit=MAX_ANSWER_BYTES))

    async def ask(
        self, question: Question[A], *, silence_s: float, note_life: Callable[[], None] = lambda: None
    ) -> A | Refused:
        """The answer, however long it takes as long as the worker shows that it is at work; `note_life` is called then.

        Raises:
            OSError, TimeoutError, asyncio.IncompleteReadError: it has gone, or said nothing for `silence_s`.
            MessageError, asyncio.LimitOverrunError: it said what no worker of this version would.
        """
        self._writer.write(write_question(question))
        while True:
            async with asyncio.timeout(silence_s):
                line = await self._reader.readuntil(b"\n")
            if line != b"\n":
                return read_answer(question, line)
            note_life()

    @property
    def is_usable(self) -> bool:
        """Whether the other side has not closed it, as far as that is known."""
        return not (self._writer.is_closing() or self._reader.at_eof())

    def close(self) -> None:
        """At once."""
        self._writer.transport.abort()

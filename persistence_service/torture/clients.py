"""Those who send: each follows its history, whatever happens to the service, and tells the account what it was answered."""

from __future__ import annotations

import asyncio
import gzip
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from random import Random
from typing import Self

import httpx
import msgspec

from persistence_service.client import (
    BatchAccepted,
    PersistenceClient,
    SessionRequest,
    TaskRequest,
    UnexpectedAnswer,
)
from persistence_service.client.batches import DURABILITIES
from persistence_service.client.paths import BASE_PATH
from persistence_service.client.retry import Backoff
from persistence_service.client.timing import EventClock
from persistence_service.errors import SessionNotFound, ValidationFailed
from persistence_service.models.times import to_micros
from persistence_service.torture.account import Account, Sending, as_moment
from persistence_service.torture.histories import Author, Batch, Deed, Delete, Flush, Manner
from persistence_service.torture.ledger import WrongAnswer
from persistence_service.torture.reading_back import ReadBack

_BACKOFF = Backoff(first_s=0.02, longest_s=0.5)
_PAUSE_S = 0.05
_CONNECTIONS = 40
_AGAIN_S = 0.05
_MOST_AHEAD = timedelta(seconds=200)
_ONCE_TIMEOUT = httpx.Timeout(30)


@dataclass
class Rules:
    """What is asked of all clients."""

    url: str
    clock: EventClock
    clock_doubt: timedelta = timedelta()
    trouble: list[str] = field(default_factory=list)
    """What was answered and has no place in the contract."""
    found_at_once: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    """Both as `ReadBack` notes it."""


@dataclass(frozen=True, slots=True)
class Connections:
    """What all clients send through: the client of workers, another that compresses, and bare HTTP."""

    client: PersistenceClient
    compressing: PersistenceClient
    plain: httpx.AsyncClient

    @classmethod
    @asynccontextmanager
    async def to(cls, url: str) -> AsyncIterator[Self]:
        """Connections to a service, closed at the end of the block."""
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(
                    PersistenceClient(
                        url, give_up_s=None, max_connections=_CONNECTIONS, gzip_over_bytes=over, backoff=_BACKOFF
                    )
                )
                for over in (None, 0)
            ]
            plain = httpx.AsyncClient(base_url=url, timeout=_ONCE_TIMEOUT, trust_env=False)
            yield cls(clients[0], clients[1], await stack.enter_async_context(plain))


class TortureClient:
    """One client with its history."""

    def __init__(self, rules: Rules, account: Account, author: Author, http: Connections) -> None:
        self._rules = rules
        self._account = account
        self._author = author
        self._random = Random(author.seed)  # noqa: S311  # pauses, not secrets
        self._http = http
        self._read_back = ReadBack(http.plain, account, Random(f"{author.seed}/read"), rules.found_at_once, rules.seen)  # noqa: S311  # likewise

    async def run(self, over: asyncio.Event) -> None:
        """Follow the history until `over`; what has been begun is answered then."""
        for step in self._author.history():
            async with asyncio.TaskGroup() as group:
                for deed in step:
                    group.create_task(self._do(deed))
            try:
                async with asyncio.timeout(self._random.uniform(0, 2 * _PAUSE_S)):
                    await over.wait()
            except TimeoutError:
                continue
            return

    async def _do(self, deed: Deed) -> None:
        try:
            match deed:
                case Batch():
                    await self._send(deed)
                case Delete():
                    await self._delete(deed.session_id)
                case Flush():
                    await self._flush()
        except (UnexpectedAnswer, WrongAnswer) as exc:
            self._rules.trouble.append(str(exc))

    async def _flush(self) -> None:
        try:
            async with asyncio.timeout(2):
                await self._http.client.flush()
        except TimeoutError:
            pass

    async def _delete(self, session_id: str) -> None:
        self._account.deleting(session_id)
        asked = datetime.now(UTC)
        try:
            deleted = await self._http.client.delete_session(session_id)
        except SessionNotFound:
            # Only so where nothing of it was kept, which the account knows better.
            self._account.was_not_deleted(session_id)
            return
        if deleted is not None:
            self._account.note_deleted(session_id, deleted.deleted_up_to, deleted.deleted_up_to)
            up_to = deleted.deleted_up_to
        else:
            up_to = as_moment(self._http.client.event_time())
            doubt = self._rules.clock_doubt
            self._account.note_deleted(session_id, asked - doubt, up_to + doubt)
        self._rules.clock.go_past(to_micros(min(up_to, datetime.now(UTC) + _MOST_AHEAD)))

    # ------------------------------------------------------------------------------------------------------- batches

    async def _send(self, batch: Batch) -> None:
        if batch.manner is Manner.CUT_OFF:
            await self._vanish(batch, whole=False)
            return
        sending = self._account.leaves(batch.kind, batch.records)
        match batch.manner:
            case Manner.VANISH:
                await self._vanish(batch, whole=True)
            case Manner.ONCE:
                await self._once(batch, sending)
            case Manner.PLAIN:
                await self._until_answered(batch, sending)
            case Manner.CLIENT | Manner.COMPRESSED:
                await self._by_client(batch, sending)

    async def _by_client(self, batch: Batch, sending: Sending) -> None:
        client = self._http.compressing if batch.manner is Manner.COMPRESSED else self._http.client
        while True:
            try:
                if batch.kind == "tasks":
                    tasks = msgspec.convert(batch.records, list[TaskRequest])
                    receipt = await client.send_tasks(tasks, ack=batch.ack)
                else:
                    sessions = msgspec.convert(batch.records, list[SessionRequest])
                    receipt = await client.send_sessions(sessions, ack=batch.ack)
            except ValidationFailed as exc:
                if not _is_the_clock(exc):
                    raise WrongAnswer(f"a batch that is right was refused: {exc}") from exc
                await asyncio.sleep(_AGAIN_S)  # the service's clock was set back: it accepts the same later
            else:
                await self._note(batch, sending, receipt)
                return

    async def _until_answered(self, batch: Batch, sending: Sending) -> None:
        is_answered = await self._once(batch, sending)
        while not is_answered:
            await asyncio.sleep(_AGAIN_S)
            self._account.leaves_again(sending)
            is_answered = await self._once(batch, sending)

    async def _once(self, batch: Batch, sending: Sending) -> bool:
        """Whether it was answered that it is kept."""
        body = _body(batch)
        headers = {"Content-Type": "application/json"}
        if self._random.random() < 0.3:
            body = gzip.compress(body, 1)
            headers["Content-Encoding"] = "gzip"
        try:
            response = await self._http.plain.post(_path(batch), content=body, headers=headers)
        except httpx.TransportError:
            return False
        if response.status_code in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.UNPROCESSABLE_ENTITY):
            return False
        if response.status_code not in (HTTPStatus.OK, HTTPStatus.ACCEPTED):
            raise WrongAnswer(f"POST {_path(batch)}: {response.status_code} {response.text[:300]}")
        await self._note(batch, sending, msgspec.json.decode(response.content, type=BatchAccepted))
        return True

    async def _vanish(self, batch: Batch, *, whole: bool) -> None:
        """Send the request, or a part of it, and leave without a word."""
        body = _body(batch)
        address = httpx.URL(self._rules.url)
        head = (
            f"POST {_path(batch)} HTTP/1.1\r\nHost: {address.netloc.decode()}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        try:
            _, writer = await asyncio.open_connection(address.host, address.port or 80)
            writer.write(head.encode() + (body if whole else body[: self._random.randrange(len(body))]))
            await writer.drain()
            await asyncio.sleep(self._random.uniform(0, 0.02))
            if whole:
                writer.close()
            else:
                writer.transport.abort()
        except OSError:
            return

    async def _note(self, batch: Batch, sending: Sending, receipt: BatchAccepted) -> None:
        asked = batch.ack or "memory"
        if DURABILITIES.index(receipt.durability) < DURABILITIES.index("journal" if asked == "storage" else asked):
            self._rules.trouble.append(f"{asked} was asked for, {receipt.durability} is the answer")
        if receipt.durability == "memory":
            self._account.is_kept_in_memory(sending)
        else:
            self._account.is_kept(sending)
            await self._read_back.check(sending, receipt)


def _is_the_clock(refused: ValidationFailed) -> bool:
    return all(problem.field == "event_time" for problem in refused.problems)


def _path(batch: Batch) -> str:
    return f"{BASE_PATH}/{batch.kind}/batch" + (f"?ack={batch.ack}" if batch.ack else "")


def _body(batch: Batch) -> bytes:
    return msgspec.json.encode({batch.kind: batch.records})

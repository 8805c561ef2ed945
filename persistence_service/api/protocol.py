"""HTTP/1.1 as uvicorn speaks it, within bounds: of heads, of pipelined requests, and of the patience with slow peers.

uvicorn leaves all of these open, and answers what is no HTTP in plain text. An application can't mend that: it is called when
a head is complete. So this protocol is given to uvicorn by `persistence-service serve`; another server has bounds of its own.
Bodies are bounded by `api.body`, for any server.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import uuid4

import httptools
import msgspec
import structlog
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from persistence_service.models.answers import ErrorAnswer
from persistence_service.settings import LimitSettings

_log = structlog.get_logger(__name__)
# How long a peer may still send after its last answer: closing while its bytes arrive would break that answer (RFC 9112, 9.6).
_LINGER_S = 2.0
# A reader that takes less than this of a waiting answer within limits.body_timeout is gone or stuck.
_LEAST_READ = 64 * 1024


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of one connection. The numbers are those of the field: nginx and Apache take 8 KiB of address, Apache 100 fields."""

    header_timeout_s: float
    body_timeout_s: float
    max_head_bytes: int = 64 * 1024
    max_url_bytes: int = 8 * 1024
    max_headers: int = 100
    max_pipelined: int = 100


class _Refused(Exception):  # noqa: N818  # not an error of the program: it ends the parser's work
    pass


class _Flow(FlowControl):
    """Reads nothing more as long as requests wait that were read before."""

    def __init__(self, protocol: BoundedHttp, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        if not self._protocol.pipeline and not self._transport.is_closing():
            super().resume_reading()


class BoundedHttp(HttpToolsProtocol):
    """One connection. Subclasses carry their `bounds`, see `bounded_http`."""

    bounds: ClassVar[Bounds]

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401  # uvicorn's own
        super().__init__(*arguments, **named)
        self._in_hand: RequestResponseCycle | None = None
        self._read_by: asyncio.TimerHandle | None = None  # what is being read must be complete by then
        self._taken_by: asyncio.TimerHandle | None = None  # the peer must have taken some of the answer by then
        self._in_message = False  # between a request's first byte and its last
        self._in_head = False
        self._head_bytes = 0
        self._bodiless = 0  # bytes that brought no byte of a body since the last one that did
        self._found_body = False
        self._refusal = (400, "this is not valid HTTP/1.1")
        self._deaf = False  # what still arrives is thrown away

    # ------------------------------------------------------------------------------------------- connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self.flow = _Flow(self, transport)
        self._expect_within(self.bounds.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_no_more()
        self._cancel_taken_by()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._found_body = False
        counted = self._in_message
        try:
            self.parser.feed_data(data)
        except (
            httptools.HttpParserUpgrade
        ):  # no other protocol is spoken here: the request is answered, and that is the end
            self._deaf = True
            self.cycle.keep_alive = False
            return
        except httptools.HttpParserError:
            self._refuse()
            return
        if counted and self._in_message and not self._found_body:
            self._bodiless += len(data)
            if self._bodiless > self.bounds.max_head_bytes:
                self._refusal = self._head_too_large()
                self._refuse()

    # ---------------------------------------------------------------------------------------------- request

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_message = self._in_head = True
        self._head_bytes = self._bodiless = 0
        self._unset_keepalive_if_required()
        self._expect_within(self.bounds.header_timeout_s)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.bounds.max_url_bytes:
            self._refusal = (414, f"an address has at most {self.bounds.max_url_bytes} bytes")
            raise _Refused

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self.bounds.max_head_bytes or len(self.headers) >= self.bounds.max_headers:
            self._refusal = self._head_too_large()
            raise _Refused
        if self._in_head:  # what follows a body in chunks (trailers) is no part of what was decided on before it
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= self.bounds.max_pipelined:
            raise _Refused
        super().on_headers_complete()
        self._in_head = False
        self._expect_no_more()

    def on_body(self, body: bytes) -> None:
        self._found_body = True
        self._bodiless = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        self._expect_no_more()
        super().on_message_complete()

    def _head_too_large(self) -> tuple[int, str]:
        size, count = self.bounds.max_head_bytes, self.bounds.max_headers
        return 431, f"the header has at most {size} bytes and {count} fields"

    # ----------------------------------------------------------------------------------------------- answer

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._in_hand = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self._deaf and self._in_hand is not None and self._in_hand.response_complete:
            self._unset_keepalive_if_required()
            self._hang_up()
        elif self._in_message and self.cycle.response_complete:  # answered before it was read: the rest is thrown away
            self._unset_keepalive_if_required()
            self._expect_within(self.bounds.body_timeout_s)

    def timeout_keep_alive_handler(self) -> None:
        if self.flow.write_paused:  # the last answer is still being taken, which has a time limit of its own
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:
            self._close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        self._cancel_taken_by()
        super().resume_writing()

    def _watch_reader(self) -> None:
        waiting = self.transport.get_write_buffer_size()

        def look() -> None:
            if self.transport.get_write_buffer_size() > waiting - _LEAST_READ:
                self.transport.abort()
            else:
                self._watch_reader()

        self._taken_by = self.loop.call_later(self.bounds.body_timeout_s, look)

    def _cancel_taken_by(self) -> None:
        if self._taken_by is not None:
            self._taken_by.cancel()
            self._taken_by = None

    # ---------------------------------------------------------------------------------------------- refusal

    def _expect_within(self, seconds: float) -> None:
        self._expect_no_more()
        self._read_by = self.loop.call_later(seconds, self._too_late)

    def _expect_no_more(self) -> None:
        if self._read_by is not None:
            self._read_by.cancel()
            self._read_by = None

    def _too_late(self) -> None:
        if self._in_message:
            self._refusal = (408, "the request did not arrive in time; send it again, faster")
            self._refuse()
        else:
            self._close()  # nothing was asked, so nothing is answered

    def _refuse(self) -> None:
        """Answer what can't be read further as `self._refusal` says, after the answers that are due before, and close."""
        self._deaf = True
        self._expect_no_more()
        spoiled = self.cycle if self._in_message and not self._in_head else None
        if spoiled is not None and self.pipeline and self.pipeline[0][0] is spoiled:
            self.pipeline.popleft()
            spoiled = None
        busy = None if self._in_hand is None or self._in_hand.response_complete else self._in_hand
        if busy is not None and busy is not spoiled:
            return  # `on_response_complete` ends the connection
        if spoiled is not None:
            spoiled.disconnected = True
            spoiled.message_event.set()
        if spoiled is None or not spoiled.response_started:
            self._answer()
        self._hang_up()

    def _answer(self) -> None:
        status, detail = self._refusal
        _log.debug("request.refused", status=status)
        request_id = uuid4().hex
        body = msgspec.json.encode(ErrorAnswer(detail=detail, error_code=f"HTTP_{status}", request_id=request_id))
        head = (
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\nx-request-id: {request_id}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(b"".join((STATUS_LINE[status], head.encode(), body)))

    def _hang_up(self) -> None:
        """Say nothing more, but hear the peer out for a moment."""
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.pipeline.clear()
            self.flow.resume_reading()
            self.loop.call_later(_LINGER_S, self.transport.abort)
        else:
            self._close()

    def _close(self) -> None:
        """Close once all is sent, or when the peer has not taken it in time."""
        if not self.transport.is_closing():
            self.transport.close()
            self.loop.call_later(_LINGER_S, self.transport.abort)


def bounded_http(limits: LimitSettings) -> type[BoundedHttp]:
    """The protocol with the configured bounds, for uvicorn's `http`."""

    class Configured(BoundedHttp):
        bounds = Bounds(header_timeout_s=limits.header_timeout, body_timeout_s=limits.body_timeout)

    return Configured

"""What the service shows is read as one picture, though dead letters become rows meanwhile."""

import httpx

from persistence_service.client.paths import BASE_PATH
from persistence_service.torture.reading import Reader

_TIMES = dict.fromkeys(("event_time", "start_time", "end_time", "created_at", "updated_at"), "2026-01-31T12:00:00Z")
_TASK = {"task_id": "t", "session_id": "torture-s", "status": "failed"} | _TIMES
_SESSION = {"session_id": "torture-s", "status": "failed"} | _TIMES
_LETTER = {"letter_id": "1", "session_id": "torture-s", "collection": "translation_tasks", "reason": "unknown_session"}


class Adopting:
    """A service whose only task is a dead letter until `after` requests were answered, and then a row."""

    def __init__(self, after: int) -> None:
        self._after = after
        self._answered = 0

    def answer(self, request: httpx.Request) -> httpx.Response:
        is_row = self._answered >= self._after
        self._answered += 1
        path = request.url.path.removeprefix(BASE_PATH)
        if path == "/dead-letters/1":
            return httpx.Response(404 if is_row else 200, json=_LETTER | {"record": _TASK})
        items = {
            "/sessions": [_SESSION],
            "/tasks": [_TASK] if is_row else [],
            "/dead-letters": [] if is_row else [_LETTER],
        }[path]
        return httpx.Response(200, json={"items": items, "next_cursor": None})


async def test_a_dead_letter_that_becomes_a_row_while_all_is_read_is_seen_once() -> None:
    # MariaDB, seed 7: 16 tasks that were adopted between the reading of rows and of letters counted as lost.
    for after in range(8):
        transport = httpx.MockTransport(Adopting(after).answer)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
            kept = await Reader(http, "torture", within_s=60).kept(["torture-s"])
        assert len(kept.tasks) + len(kept.letters) == 1, after

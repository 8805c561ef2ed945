"""The Python snippets of ``docs/client.md`` run one after the other on the service, and print what is shown."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Coroutine
from contextlib import redirect_stdout
from inspect import CO_COROUTINE
from pathlib import Path
from types import FunctionType

from persistence_service import errors
from persistence_service.client import errors as client_errors
from persistence_service.client.client import PersistenceClient
from tests.e2e.service import running_service

DOCUMENT = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)


async def test_each_snippet_prints_what_is_shown(tmp_path: Path) -> None:
    assert len(SNIPPETS) == DOCUMENT.count("```python\n") > 0
    names: dict[str, object] = {}
    async with running_service(tmp_path) as service:
        for snippet, shown in SNIPPETS:
            printed = io.StringIO()
            with redirect_stdout(printed):
                await _run(snippet.replace("http://127.0.0.1:8001", service.url), names)
            assert printed.getvalue() == shown, snippet


async def _run(snippet: str, names: dict[str, object]) -> None:
    """Run a snippet that awaits outside of a function, as `python -m asyncio` does."""
    code = compile(snippet, "docs/client.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert code.co_flags & CO_COROUTINE
    running = FunctionType(code, names)()
    assert isinstance(running, Coroutine)
    await running


def test_every_call_and_every_error_of_the_client_is_named() -> None:
    calls = [name for name in vars(PersistenceClient) if not name.startswith("_") and name != "close"]
    own = [name for name, kind in vars(client_errors).items() if isinstance(kind, type) and name not in vars(errors)]
    raised = [name for name in own if issubclass(getattr(client_errors, name), errors.PersistenceError)]
    assert len(raised) == 3
    assert [name for name in [*calls, *raised] if not re.search(rf"\b{name}\b", DOCUMENT)] == []

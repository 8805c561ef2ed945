"""What the contract asks of valid data and no JSON schema can say; schemathesis loads this file.

Everything else that it makes from the schema must be answered as the schema says, with no check left out.
"""

from __future__ import annotations

from typing import Any

import schemathesis

_DEEPEST = 1000  # pages of 100 records
_INT64 = range(-(2**63), 2**63)


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, object]) -> None:
    """Make valid data valid in this too: the service gives the cursors, lists end, and the future is not known yet."""
    if case.meta is None or case.meta.generation.mode != schemathesis.GenerationMode.POSITIVE:
        return
    query = case.query or {}
    query.pop("cursor", None)
    if "page" in query:
        query["page"] = min(int(query["page"]), _DEEPEST)
    body: Any = case.body
    for items in body.values() if isinstance(body, dict) else ():
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict):
                item.pop("event_time", None)
                item |= {name: _within_int64(item[name]) for name in ("game_info", "metadata") if name in item}


def _within_int64(value: Any) -> Any:  # noqa: ANN401  # JSON
    if isinstance(value, dict):
        return {name: _within_int64(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_within_int64(inner) for inner in value]
    return value if not isinstance(value, int) or value in _INT64 else 0

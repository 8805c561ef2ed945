"""Cursors: where a walk through a list stands, opaque to clients and bound to the list's filters and order."""

from __future__ import annotations

from base64 import b64decode, urlsafe_b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, get_type_hints

import msgspec

from persistence_service.errors import FieldProblem, ValidationFailed
from persistence_service.models.digest import digest_of
from persistence_service.storage.query import Sort, Value

_MISMATCH = "belongs to another list, or was changed; use it with the filters and the order it was made with"
_LONGEST = 4096  # of characters: enough for the longest names and ids
_INT64 = range(-(2**63), 2**63)


class _Cursor(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    fingerprint: bytes
    values: list[Any]  # checked against the order: strings, integers, times


_decoder = msgspec.msgpack.Decoder(_Cursor)


def fingerprint_of(*parts: object) -> bytes:
    """8 bytes that stand for a list: what is listed, its filters, its order."""
    return digest_of([repr(part) for part in parts])[:8]


def encode_cursor(fingerprint: bytes, values: Sequence[Value]) -> str:
    """The cursor behind the record with these `values` of its list's order."""
    return urlsafe_b64encode(msgspec.msgpack.encode((fingerprint, values))).rstrip(b"=").decode()


def decode_cursor(
    text: str, fingerprint: bytes, order: Sequence[Sort], record: type[msgspec.Struct]
) -> tuple[str | int | datetime, ...]:
    """The values to continue behind.

    Raises:
        ValidationFailed: not a cursor, or one of another list.
    """
    wrong = ValidationFailed([FieldProblem(None, "cursor", _MISMATCH)])
    if len(text) > _LONGEST:
        raise wrong
    try:
        cursor = _decoder.decode(b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError, msgspec.MsgspecError):
        raise wrong from None
    kinds = [_kind(record, term.field) for term in order]
    fits = len(cursor.values) == len(kinds) and all(map(_is_of, cursor.values, kinds))
    if cursor.fingerprint != fingerprint or not fits:
        raise wrong
    return tuple(v.astimezone(UTC) if isinstance(v, datetime) else v for v in cursor.values)


@cache
def _kind(record: type[msgspec.Struct], field: str) -> type:
    """The type of a field's values: text, whole number, or time. A derived field is a time."""
    kind: type = get_type_hints(record).get(field, datetime)
    return str if issubclass(kind, str) else kind


def _is_of(value: object, kind: type) -> bool:
    return type(value) is kind and not (isinstance(value, int) and value not in _INT64)

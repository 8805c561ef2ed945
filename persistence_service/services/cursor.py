"""Cursors: where a walk through a list stands, opaque to clients and bound to the list's filters and order."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, get_type_hints

import msgspec

from persistence_service.errors import FieldProblem, ValidationFailed
from persistence_service.models.digest import digest_of
from persistence_service.storage.query import Sort, Value

_MISMATCH = "belongs to another list, or was changed; use it with the filters and the order it was made with"


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
    try:
        cursor = _decoder.decode(urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)))
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise ValidationFailed([FieldProblem(None, "cursor", _MISMATCH)]) from None
    hints = get_type_hints(record)  # a derived field is a time
    expected = [str if issubclass(kind := hints.get(term.field, datetime), str) else kind for term in order]
    fits = len(cursor.values) == len(expected) and all(map(isinstance, cursor.values, expected))
    if cursor.fingerprint != fingerprint or not fits:
        raise ValidationFailed([FieldProblem(None, "cursor", _MISMATCH)])
    return tuple(v.astimezone(UTC) if isinstance(v, datetime) else v for v in cursor.values)

"""Digests of canonical values: the last word in the merge rule, so that ties break alike everywhere.

BLAKE2b (RFC 7693) with 16 bytes, over msgspec's compact JSON. A digest is computed once, when a record is accepted, and is
stored with it; what a database does to a value later (reordering the keys of JSON, say) can't change it.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

import msgspec

DIGEST_BYTES = 16

_encode: Callable[[object], bytes] = msgspec.json.Encoder(order="deterministic").encode


def canonical_json(value: object) -> bytes:
    """`value` as compact JSON with the keys of its mappings in order; equal values give equal bytes."""
    return _encode(value)


def digest_of(value: object) -> bytes:
    """16 bytes that identify `value`, over its canonical JSON."""
    return blake2b(_encode(value), digest_size=DIGEST_BYTES).digest()

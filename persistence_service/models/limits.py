"""Bounds on what a record may hold: those fixed by the contract, and those an operator may set."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SESSION_ID = 36
MAX_TASK_ID = 64
MAX_NAME = 255
MAX_PATH = 512
MAX_PROVIDER = 50
MAX_INT = 2**31 - 1
MAX_DURATION_MS = 2**53 - 1
MAX_JSON_BYTES = 256 * 1024
MAX_JSON_DEPTH = 30
MAX_RECORD_BYTES = 5 * 1024 * 1024
MAX_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one request: counts, bytes of UTF-8, and how far ahead (µs) an event time may be."""

    max_batch_items: int = 10_000
    max_body_bytes: int = 32 * 1024 * 1024
    max_text_bytes: int = 1024 * 1024
    max_clock_skew_us: int = 300 * 1_000_000

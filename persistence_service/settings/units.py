"""Sizes and durations as people write them: ``64MiB``, ``64MB``, ``30s``, ``500ms``, ``5m``, ``2h``, ``1d``.

A plain number is bytes or seconds. Inside the program a size is an ``int`` of bytes and a duration a ``float`` of
seconds; reading is exact (``0.1s`` is the float nearest to one tenth), and `format_size` and `format_duration` write what
`parse_size` and `parse_duration` read back to the same value.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction

_MAX_LENGTH = 400
_FORM = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)")

_DURATION_UNITS = {
    "d": Fraction(86_400),
    "h": Fraction(3_600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1_000),
}
_BINARY_UNITS = {"TiB": 2**40, "GiB": 2**30, "MiB": 2**20, "KiB": 2**10}
_SIZE_UNITS = {
    **{name.lower(): factor for name, factor in _BINARY_UNITS.items()},
    "tb": 10**12,
    "gb": 10**9,
    "mb": 10**6,
    "kb": 10**3,
    "b": 1,
}


def parse_duration(value: object) -> float:
    """Return the seconds that `value` means: a number, or text with one of the units ms, s, m, h, d (lower case).

    Raises:
        ValueError: it is no such text, not finite, or not a number at all (true and false are not).
    """
    if isinstance(value, str):
        number, unit = _split(value)
        factor = _DURATION_UNITS.get(unit or "s")
        if factor is None:
            raise ValueError(f"{unit!r} is not a unit of time")
        try:
            return float(number * factor)
        except OverflowError:
            raise ValueError("too long") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("not a duration")
    return float(value)


def parse_size(value: object) -> int:
    """Return the bytes that `value` means: a whole number, or text with a unit (KiB is 1024, KB is 1000, in any case).

    Raises:
        ValueError: it is no such text, does not come to whole bytes, or is not a number at all.
    """
    if isinstance(value, str):
        number, unit = _split(value)
        factor = _SIZE_UNITS.get((unit or "b").lower())
        if factor is None:
            raise ValueError(f"{unit!r} is not a unit of size")
        size = number * factor
        if size.denominator != 1:
            raise ValueError("not a whole number of bytes")
        return size.numerator
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("not a size")  # noqa: TRY004 - pydantic collects ValueError
    return value


def format_duration(seconds: float) -> str:
    """Write a duration in the largest unit that leaves a whole number: ``30s``, ``1h``, ``500ms``."""
    exact = Fraction(repr(seconds))
    for unit, factor in _DURATION_UNITS.items():
        if exact and (exact / factor).denominator == 1:
            return f"{exact / factor}{unit}"
    return f"{Decimal(repr(seconds)):f}s" if exact else "0s"


def format_size(size: int) -> str:
    """Write a size in the largest binary unit that leaves a whole number: ``64MiB``, else plain bytes."""
    for unit, factor in _BINARY_UNITS.items():
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def _split(text: str) -> tuple[Fraction, str]:
    stripped = text.strip()
    match = _FORM.fullmatch(stripped) if len(stripped) <= _MAX_LENGTH else None
    if match is None:
        raise ValueError("not a number with a unit")
    return Fraction(match[1]), match[2]

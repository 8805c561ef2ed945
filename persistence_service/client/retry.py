"""When a failed request is sent again.

Source of the jitter: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 (its "equal jitter").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import Random

import httpx

from persistence_service.models.times import from_micros

# What a service, or a proxy before it, answers for a while: each may be sent again, and some may have taken effect.
_PASSING = frozenset({408, 429, 502, 503, 504})
_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)
# A date far ahead (a wrong clock) must not stop a worker for good.
_LONGEST_RETRY_AFTER_S = 300.0
# Those who were told the same time don't all come back in the same moment.
_SPREAD = 0.1


def is_passing(status: int) -> bool:
    """Whether an answer of this status is worth another attempt."""
    return status in _PASSING


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between attempts: random between half and all of a bound that doubles from `first_s` to `longest_s`.

    Never shorter than what `Retry-After` asked for, and at most a tenth longer.
    """

    first_s: float = 0.1
    longest_s: float = 10.0

    def delay_s(self, failures: int, retry_after_s: float | None, random: Random) -> float:
        """Seconds to wait after so many failures (≥ 1)."""
        bound = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 30))
        own = bound * (0.5 + 0.5 * random.random())
        return own if retry_after_s is None else max(own, retry_after_s * (1 + _SPREAD * random.random()))


def retry_after_s(headers: httpx.Headers, now_us: int) -> float | None:
    """The seconds that `Retry-After` asks for (RFC 9110, 10.2.3), at most five minutes; None without a valid one.

    A date is measured against the answer's own `Date`, so that a wrong clock on this side does not count; without that
    against `now_us`.
    """
    text = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), _LONGEST_RETRY_AFTER_S)
    until = _http_date(text)
    if until is None:
        return None
    now = answered_at(headers) or from_micros(now_us)
    return min(max(0.0, (until - now).total_seconds()), _LONGEST_RETRY_AFTER_S)


def answered_at(headers: httpx.Headers) -> datetime | None:
    """The whole second of the service's clock at which it answered, None if it does not say."""
    return _http_date(headers.get("date", ""))


def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    # An HTTP date is in GMT, which one of its old forms leaves out.
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment

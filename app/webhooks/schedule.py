"""When a delivery that failed is sent again, and for how long."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from random import Random
from typing import Final

DELAYS_S: Final = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""After each attempt: the schedule that Standard Webhooks gives as its example, over 75 hours."""
SUBSCRIPTION_DELAYS_S: Final = (5.0, 30.0, 120.0, 600.0)
"""Of MCP clients: SEP-3415 asks for 3 to 5 attempts within 10 to 15 minutes. They replay."""
JITTER: Final = 0.2
"""Share of a delay that is random, upwards."""
RETRY_AFTER_MAX_S: Final = 86_400.0
DIGITS_MAX: Final = 9


def delay_s(attempt: int, delays: Sequence[float], random: Random) -> float | None:
    """Seconds from attempt `attempt`, counted from 1, to the next; None where it was the last."""
    if attempt > len(delays):
        return None
    return delays[attempt - 1] * (1 + JITTER * random.random())


def retry_after_s(header: str | None, now: datetime) -> float:
    """What a Retry-After header asks for (RFC 9110, 10.2.3), a day at most; 0 where it is none."""
    text = (header or "").strip()
    if text.isascii() and text.isdecimal():
        return min(float(text[:DIGITS_MAX]), RETRY_AFTER_MAX_S)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return min(max(0.0, (at - now) / timedelta(seconds=1)), RETRY_AFTER_MAX_S)

"""What a status says of the work: done, refused, not begun, or nobody knows."""

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

from adapters.contract import (
    TARGET_BUSY,
    TARGET_FAILED,
    TARGET_REFUSED,
    CallFailedError,
    Known,
)
from adapters.http.bodies import Answer, told

SUCCESSES: Final = range(200, 300)
SERVER_ERRORS: Final = range(500, 600)
NOT_IMPLEMENTED: Final = 501
BUSY: Final = (425, 429)
UNSURE: Final = (408,)
CONFLICT: Final = 409
RETRY_AFTER_MAX_S: Final = 24 * 3600.0
IN_PROGRESS: Final = re.compile(r"in.?progress|processing|pending|concurrent", re.IGNORECASE)
SECONDS: Final = re.compile(r"[0-9]{1,9}")
WORDS: Final = ("detail", "message", "error_description", "title", "error")
WORDS_MAX: Final = 500


def known(answer: Answer, statuses: Mapping[str, str]) -> Known:
    """What is known of the effect; the mapping's `statuses` go first.

    429 and 425 say that nothing was begun. 408 and 5xx may have come after it was (a proxy says
    them too), and so may a conflict with another request of the same key that is in progress.
    """
    status = answer.status
    if (named := statuses.get(str(status))) is not None:
        return Known(named)
    if status in SUCCESSES:
        return Known.DONE
    if status in BUSY:
        return Known.NOT_DONE
    if status in UNSURE or (status in SERVER_ERRORS and status != NOT_IMPLEMENTED):
        return Known.UNKNOWN
    if status == CONFLICT and (retry_after(answer) is not None or _in_progress(answer)):
        return Known.UNKNOWN
    return Known.REFUSED


def error(answer: Answer, state: Known) -> CallFailedError:
    """An answer that is not a success."""
    match state:
        case Known.NOT_DONE:
            code = TARGET_BUSY
        case Known.UNKNOWN:
            code = TARGET_FAILED
        case _:
            code = TARGET_REFUSED
    return CallFailedError(
        state,
        code,
        f"The target answered {answer.status}{_words(answer.json())}",
        retry_after_s=retry_after(answer),
        details=told(answer),
    )


def retry_after(answer: Answer) -> float | None:
    """The seconds that a target asks to wait for: a number, or a date."""
    given = answer.headers.get("retry-after", "").strip()
    if SECONDS.fullmatch(given):
        return min(float(given), RETRY_AFTER_MAX_S)
    try:
        at = parsedate_to_datetime(given).timestamp()
    except (ValueError, OverflowError, IndexError):
        return None
    return min(max(0.0, at - time.time()), RETRY_AFTER_MAX_S)


def _in_progress(answer: Answer) -> bool:
    return IN_PROGRESS.search(answer.body.decode(errors="replace")) is not None


def _words(body: Any) -> str:
    """A sentence of problem details, or of what others have in their place."""
    found: Any = body
    for _ in range(2):
        if isinstance(found, Mapping):
            found = next((found[name] for name in WORDS if found.get(name)), None)
    return f": {found[:WORDS_MAX]}" if isinstance(found, str) else "."

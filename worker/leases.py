"""The leases of the calls that run, renewed by a thread of its own.

What an adapter does to the event loop, such as a library that blocks it, costs no lease: the thread
speaks to the app by itself. It also hears there that a call is to end, and tells the loop.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from adapters.claims import BARE, OVER
from worker import metrics
from worker.api import ITEMS_MAX, ApiAwayError, ApiRefusedError

logger = logging.getLogger(__name__)

BEAT_MAX_S: Final = 10.0
BEAT_MIN_S: Final = 0.2
TICK_S: Final = 0.1
AGAIN_S: Final = 1.0
LAGS_S: Final = 1.0
"""An event loop that has not answered for so long is held up."""


class Beats(Protocol):
    """Where renewals are said."""

    def batch(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Say them."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


@dataclass(slots=True, kw_only=True)
class Lease:
    """A call's, with the last word of how far it is."""

    correlation_id: str
    attempt: int
    lease_s: float
    renewed_at: float = field(default_factory=time.monotonic)
    next_at: float = 0.0
    progress: dict[str, Any] = field(default_factory=lambda: dict(BARE))

    @property
    def beat_s(self) -> float:
        """How often it is renewed."""
        return max(BEAT_MIN_S, min(BEAT_MAX_S, self.lease_s / 3))

    def renewed(self) -> None:
        """It is good for its whole length again."""
        self.renewed_at = time.monotonic()
        self.next_at = self.renewed_at + self.beat_s

    @property
    def item(self) -> dict[str, Any]:
        """As an item of a batch."""
        about = {"op": "progress", "correlation_id": self.correlation_id, "attempt": self.attempt}
        return about | self.progress


class Leases:
    """Keeps the leases of running calls until they are over."""

    def __init__(
        self,
        api: Beats,
        *,
        cancelled: Callable[[str], None],
        lost: Callable[[str], None],
        in_loop: Callable[..., Any],
    ) -> None:
        self._api = api
        self._cancelled = cancelled
        self._lost = lost
        self._in_loop = in_loop
        self._leases: dict[str, Lease] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._asked_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; every call is over."""
        self._stop.set()
        self._thread.join()
        self._api.close()

    def add(self, lease: Lease) -> None:
        """A call runs from now on."""
        lease.renewed()
        with self._lock:
            self._leases[lease.correlation_id] = lease

    def remove(self, correlation_id: str) -> None:
        """A call is over, and reported."""
        with self._lock:
            self._leases.pop(correlation_id, None)

    def _run(self) -> None:
        while not self._stop.wait(TICK_S):
            try:
                self._watch_loop()
                self._beat()
            except Exception:  # whatever it is: the other leases need this thread
                logger.exception("leases were not renewed")

    def _watch_loop(self) -> None:
        """Ask the event loop for a sign, and say for how long it has given none."""
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            self._in_loop(self._answered)
            metrics.LOOP_LAG_S.set(0)
        elif now - self._asked_at > LAGS_S:
            metrics.LOOP_LAG_S.set(now - self._asked_at)

    def _answered(self) -> None:
        self._asked_at = None

    def _beat(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = [one for one in self._leases.values() if one.next_at <= now]
        for start in range(0, len(due), ITEMS_MAX):
            self._renew(due[start : start + ITEMS_MAX])

    def _renew(self, due: Sequence[Lease]) -> None:
        try:
            found = self._api.batch([one.item for one in due])
        except (ApiAwayError, ApiRefusedError) as error:
            logger.warning("leases are not renewed: %s", error)
            for one in due:
                if isinstance(error, ApiRefusedError):  # one call's words cost no other its lease
                    one.progress = dict(BARE)
                self._put_off(one)
            return
        for one, answer in zip(due, found, strict=True):
            if answer["status"] in OVER:
                self._in_loop(self._lost, one.correlation_id)
                self.remove(one.correlation_id)
            elif answer["status"] >= 300:  # noqa: PLR2004 the database is away
                self._put_off(one)
            else:
                one.renewed()
                if answer.get("cancel_requested"):
                    self._in_loop(self._cancelled, one.correlation_id)

    def _put_off(self, lease: Lease) -> None:
        """The app is away: work goes on, and the claim's fence decides what its result is worth."""
        now = time.monotonic()
        if now - lease.renewed_at > lease.lease_s:
            metrics.LATE_BEATS.inc()
        lease.next_at = now + min(AGAIN_S, lease.beat_s)

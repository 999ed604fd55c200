"""Requests that their clients may give up, on whichever replica they are served."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, Final

import anyio
import orjson

from app.identity import Identity

ASK: Final = "?"
"""Said in place of a name by a replica that may have missed some."""
KEPT_S: Final = 300.0
KEPT_MAX: Final = 10_000
"""What was told to the other replicas is told again to one that asks, for so long and so many."""


def call_name(who: Identity, session: str | None, request_id: Any) -> str | None:
    """What every replica calls one request of one session of one caller; None where it has none."""
    if not session or not isinstance(request_id, int | str):
        return None
    parts = [who.tenant_id, who.user_id, who.client_id, session, repr(request_id)]
    return sha256(orjson.dumps(parts)).hexdigest()


class Stops:
    """The requests that this process serves and that their client may give up.

    Nothing polls for what was given up, and a NOTIFY reaches only who listens at that moment. So a
    replica asks for what it missed whenever it begins to listen, and those who told it tell it
    again.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._served: defaultdict[str, set[anyio.CancelScope]] = defaultdict(set)
        self._told: deque[tuple[float, str]] = deque(maxlen=KEPT_MAX)

    @contextmanager
    def serving(self, name: str | None, scope: anyio.CancelScope) -> Generator[None]:
        """While the block lasts, the client that gives this request up cancels the scope."""
        if name is None:
            yield
            return
        self._served[name].add(scope)
        try:
            yield
        finally:
            self._served[name].discard(scope)
            if not self._served[name]:
                del self._served[name]

    def stop(self, name: str) -> None:
        """The client has given this request up: end it here, else have the other replicas told."""
        if name in self._served:
            self.notified(name)
        else:
            self._told.append((time.monotonic(), name))
            self._tell(name)

    def notified(self, payload: str) -> None:
        """Some replica says which requests were given up; "" says that some may be missed."""
        for name in payload.split(","):
            if not name:
                self._tell(ASK)
            elif name == ASK:
                self._tell_again()
            found = self._served.get(name, set[anyio.CancelScope]())
            # A session numbers each request once; where one did not, which one is not known.
            if len(found) == 1:
                [scope] = found
                scope.cancel()

    def _tell_again(self) -> None:
        while self._told and self._told[0][0] < time.monotonic() - KEPT_S:
            self._told.popleft()
        for _, name in self._told:
            self._tell(name)

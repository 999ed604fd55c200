"""How many event streams there may be, of a process and of one user."""

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from app.errors import BrokerError
from app.identity import Identity


class TooManyStreamsError(BrokerError):
    """The process, or the caller, has as many streams open as it may."""

    code = "too_many_streams"
    status = 429
    title = "Too many event streams are open"


class Streams:
    """The open streams of one app process."""

    def __init__(self, *, total_max: int, user_max: int) -> None:
        self._total_max = total_max
        self._user_max = user_max
        self._open: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def room(self, who: Identity) -> Generator[None]:
        """A place for one more, while the block lasts.

        Raises:
            TooManyStreamsError: there is none.
        """
        user = who.tenant_id, who.user_id
        if self._open.total() >= self._total_max or self._open[user] >= self._user_max:
            raise TooManyStreamsError("Close one, or ask again instead.", retry_after_s=5)
        self._open[user] += 1
        try:
            yield
        finally:
            self._open[user] -= 1
            if not self._open[user]:
                del self._open[user]

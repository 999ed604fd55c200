"""What a stream tells of the tools that its caller may call, and how many streams there may be."""

import hashlib
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

import anyio

from app.edges.parts import Parts
from app.identity import Identity


class TooManyStreamsError(Exception):
    """The process, or the caller, has as many streams open as it may."""


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
            raise TooManyStreamsError
        self._open[user] += 1
        try:
            yield
        finally:
            self._open[user] -= 1
            if not self._open[user]:
                del self._open[user]


async def tools_seen(broker: Parts, who: Identity) -> str:
    """A digest of what tools/list shows the caller; the same at each replica."""
    digest = hashlib.sha256()
    for tool in await broker.catalog.visible(who):
        digest.update(tool.name.encode() + b"\0" + tool.digest)
    return digest.hexdigest()[:32]


async def tools_changed(broker: Parts, who: Identity, known: str) -> str:
    """Wait until what the caller sees is something else; returns its digest."""
    while True:
        changed = broker.catalog.changed
        seen = await tools_seen(broker, who)
        if seen != known:
            return seen
        with anyio.move_on_after(broker.settings.catalog_kept_s):  # it is old then
            await changed.wait()

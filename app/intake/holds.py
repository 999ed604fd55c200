"""The holds of each tenant as intake knows them: some moments old, for what callers are told.

Each replica hears of a change by a notification (`wakeups.HOLDS`), and reads them again before its
next call; where that is lost, it reads them as they age. Whether anything goes out is not decided
by these: the claim asks the table itself.
"""

import asyncio
import logging
import time
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from app.catalog.single_flight import SingleFlight
from app.commands import holds
from app.commands.store.holds import Hold
from app.postgres.engine import AWAY

logger = logging.getLogger(__name__)

KEPT_S: Final = 1.0
"""Age at which they are read again."""
KNOWN_S: Final = 30.0
"""Age up to which callers go on by them meanwhile, where nothing is known to have changed: intake
waits for no read of its own."""
READ_S: Final = 1.0
"""How old a read may be that a caller waits for otherwise. A call that should be refused is held,
then."""
TENANTS_KEPT_MAX: Final = 10_000

Known = tuple[float, tuple[Hold, ...]]


class Holds:
    """What operators hold, as read a second ago at most by this process."""

    def __init__(self, engine: AsyncEngine, *, kept_s: float = KEPT_S) -> None:
        self._engine = engine
        self._kept_s = kept_s
        self._known: dict[str, Known] = {}
        self._reads = SingleFlight()
        self._began: dict[str, float] = {}
        self._changed_at = float("-inf")

    def forget(self) -> None:
        """Some were placed or released, here or elsewhere: who asks next waits for a read."""
        self._changed_at = time.monotonic()

    async def of(self, tenant_id: str) -> tuple[Hold, ...]:
        """A tenant's holds, as far as they are known.

        Who finds none known waits for them, and so does who asks first after a change.
        """
        known, now = self._known.get(tenant_id), time.monotonic()
        read_at = float("-inf") if known is None else known[0]
        changed = read_at <= self._changed_at
        if changed or now - read_at > self._kept_s:
            began, reading = self._reading(tenant_id)
            if changed or now - read_at > KNOWN_S:
                await asyncio.wait([reading], timeout=max(0, began + READ_S - now))
                known = self._known.get(tenant_id)
        return () if known is None else known[1]

    def _reading(self, tenant_id: str) -> tuple[float, "asyncio.Task[None]"]:
        """The read of a tenant's holds that is of after the last change, and when it began."""
        key, now = (tenant_id, self._changed_at), time.monotonic()
        if not self._reads.runs(key):
            self._began[tenant_id] = now
        began = self._began.get(tenant_id, now)
        return began, self._reads.begun(key, lambda: self._read(tenant_id))

    async def met_by(
        self, tenant_id: str, *, tool: str, method: str, ordering_key: str | None, args: Any
    ) -> Hold | None:
        """The hold that such a call meets, if any."""
        found = await self.of(tenant_id)
        if not found:
            return None
        return holds.of_call(found, tool=tool, method=method, ordering_key=ordering_key, args=args)

    async def _read(self, tenant_id: str) -> None:
        began = time.monotonic()
        try:
            found = tuple(await holds.in_force(self._engine, tenant_id))
        except AWAY as error:
            logger.warning("holds are not read: %r", error)
            raise
        if len(self._known) >= TENANTS_KEPT_MAX:
            self._known.clear()
            self._began.clear()
        if (known := self._known.get(tenant_id)) is None or known[0] < began:
            self._known[tenant_id] = (began, found)

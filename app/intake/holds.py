"""The holds of each tenant as intake knows them: some moments old, for what callers are told.

Whether anything goes out is not decided by these: the claim asks the table itself.
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
"""Age up to which callers go on by them meanwhile: intake waits for no read of its own."""
READ_S: Final = 1.0
"""For how long a caller waits otherwise. A call that should be refused is held, then."""
TENANTS_KEPT_MAX: Final = 10_000

Known = tuple[float, tuple[Hold, ...]]


class Holds:
    """What operators hold, as read a second ago at most by this process."""

    def __init__(self, engine: AsyncEngine, *, kept_s: float = KEPT_S) -> None:
        self._engine = engine
        self._kept_s = kept_s
        self._known: dict[str, Known] = {}
        self._reads = SingleFlight()

    def forget(self, tenant_id: str) -> None:
        """One was placed or released here: read them when next asked."""
        self._known.pop(tenant_id, None)

    async def of(self, tenant_id: str) -> tuple[Hold, ...]:
        """A tenant's holds, as far as they are known: only who finds none known waits for them."""
        known = self._known.get(tenant_id)
        age_s = float("inf") if known is None else time.monotonic() - known[0]
        if age_s > self._kept_s:
            reading = self._reads.begun(tenant_id, lambda: self._read(tenant_id))
            if age_s > KNOWN_S:
                await asyncio.wait([reading], timeout=READ_S)
                known = self._known.get(tenant_id)
        return () if known is None else known[1]

    async def met_by(
        self, tenant_id: str, *, tool: str, method: str, ordering_key: str | None, args: Any
    ) -> Hold | None:
        """The hold that such a call meets, if any."""
        found = await self.of(tenant_id)
        if not found:
            return None
        return holds.of_call(found, tool=tool, method=method, ordering_key=ordering_key, args=args)

    async def _read(self, tenant_id: str) -> Known:
        began = time.monotonic()
        try:
            found = tuple(await holds.in_force(self._engine, tenant_id))
        except AWAY as error:
            logger.warning("holds are not read: %r", error)
            raise
        if len(self._known) >= TENANTS_KEPT_MAX:
            self._known.clear()
        made = (began, found)
        self._known[tenant_id] = made
        return made

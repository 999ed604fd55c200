"""The bound of each tenant's queue: counted now and then, and kept between two counts."""

import time
from dataclasses import dataclass
from typing import Final, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from app.catalog import store as catalog_store
from app.catalog.single_flight import SingleFlight
from app.catalog.store import Tenant
from app.errors import QueueFullError
from app.postgres.engine import tenant_transaction

T = TypeVar("T")

KEPT_S: Final = 0.25
"""Age at which a queue is counted again."""

SPENT_SHARE: Final = 0.05
"""Of the time, at most, goes into counting one tenant's queue: a long one takes long to count."""

RETRY_AFTER_S: Final = 5
TENANTS_KEPT_MAX: Final = 10_000


@dataclass(slots=True)
class Counted:
    """A tenant's queue: as counted, and what this process let in since."""

    queued: int
    due: float
    """On the monotonic clock: when it is counted again."""


class Queues:
    """The tenants' queues, as counted some milliseconds ago by this process."""

    def __init__(
        self, engine: AsyncEngine, *, kept_s: float = KEPT_S, spent_share: float = SPENT_SHARE
    ) -> None:
        self._engine = engine
        self._kept_s = kept_s
        self._spent_share = spent_share
        self._counted: dict[str, Counted] = {}
        self._counts = SingleFlight()

    async def admit(self, tenant: Tenant) -> None:
        """Refuse at the tenant's bound, else count one more in.

        While one caller counts again, the others go on by what is known; what is let in during a
        count may be counted twice until the next one. The bound can be passed by what is on its
        way into the table when a count starts, and by what other processes let in between two.

        Raises:
            QueueFullError: the tenant has as many queued commands as it may.
        """
        name = tenant.tenant_id
        known = self._counted.get(name)
        # Without a first count everybody waits for it; later only the one who starts the next.
        if known is None or (time.monotonic() >= known.due and not self._counts.runs(name)):
            known = await self._counts.once(name, lambda: self._count(tenant))
        if known.queued >= tenant.queued_max:
            raise QueueFullError(
                f"Your queue holds {tenant.queued_max} calls, its limit. Nothing was started; try"
                f" again in {RETRY_AFTER_S} seconds.",
                retry_after_s=RETRY_AFTER_S,
            )
        known.queued += 1

    async def _count(self, tenant: Tenant) -> Counted:
        known = self._counted.get(tenant.tenant_id)
        before = 0 if known is None else known.queued
        started = time.monotonic()
        async with tenant_transaction(self._engine, tenant.tenant_id) as conn:
            queued = await catalog_store.queued(conn, tenant.tenant_id, limit=tenant.queued_max + 1)
        ended = time.monotonic()
        let_in = 0 if known is None else known.queued - before
        if len(self._counted) >= TENANTS_KEPT_MAX:
            self._counted.clear()
        pause_s = max(self._kept_s, (ended - started) / self._spent_share)
        made = Counted(queued=queued + let_in, due=ended + pause_s)
        self._counted[tenant.tenant_id] = made
        return made

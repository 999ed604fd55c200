"""Before a relay seals: whether anchors know another past of the log than the database does.

Then the database was put back, or an old replica was promoted, and seals under numbers that were
published would fork the log: nothing is sealed until an officer has signed for what is given up
(`broker audit accept-restore`).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import asyncpg

from app.audit.anchoring import Anchor
from app.audit.bundle import anchors_among
from app.audit.restoring import by_number
from app.audit.rulings import gives_up
from app.audit.store import export, restores
from app.audit.store.restores import Place
from relay.kafka import KAFKA_AWAY

logger = logging.getLogger(__name__)

READ_MAX: Final = 1 << 24
"""Bytes from the end of an anchor file. A restore loses the newest seals, so the end tells it."""

SAY_S: Final = 60.0
"""Period of saying again that nothing is sealed."""

ASK_S: Final = 5.0
"""Between two questions to a Kafka that is away."""

Published = Callable[[], Awaitable[Sequence[Anchor]]]


class Past:
    """Compares the newest anchors with the database, once in each of its lives."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        *,
        log: str,
        keys: Mapping[str, bytes],
        officers: Mapping[str, bytes],
        anchor_file: Path | None = None,
        published: Published | None = None,
    ) -> None:
        """`keys` are this relay's own; `published` reads the newest anchors that Kafka has."""
        self._pool = pool
        self._log = log
        self._keys, self._officers = dict(keys), officers
        self._anchor_file, self._published = anchor_file, published
        self._agreed: Place | None = None
        self._read_at: Place | None = None
        self._odd: list[Anchor] = []
        self._said_at = float("-inf")
        self._asked_at = float("-inf")

    async def is_another(self) -> bool:
        """Whether sealing would fork a log, or nobody knows yet; said where it is so."""
        if self._anchor_file is None and self._published is None:
            return False
        place = await restores.place(self._pool)
        if place == self._agreed:
            return False
        if place != self._read_at:
            found = await self._read()
            if found is None:
                return True
            self._odd = await self._believed(await restores.unlike(self._pool, found))
            self._read_at = place
        lost = await self._lost()
        if lost is None:
            self._agreed, self._odd = place, []
            return False
        if time.monotonic() - self._said_at > SAY_S:
            self._said_at = time.monotonic()
            logger.error(
                "nothing is sealed: seal %d of tenant %s was published, and the database has"
                " another or none; was it restored? Then see `broker audit accept-restore`",
                *(lost.seal_no, lost.tenant_id),
            )
        return True

    async def _read(self) -> list[Anchor] | None:
        """The newest anchors of file and Kafka; None: Kafka is away."""
        found: list[Anchor] = []
        if self._anchor_file is not None:
            found += await asyncio.to_thread(newest_of, self._anchor_file)
        if self._published is None:
            return found
        if time.monotonic() - self._asked_at < ASK_S:
            return None
        try:
            found += await self._published()
        except (*KAFKA_AWAY, LookupError) as error:
            logger.warning("sealing waits for Kafka, which has the newest anchors: %r", error)
            self._asked_at = time.monotonic()
            return None
        return found

    async def _believed(self, found: Sequence[Anchor]) -> list[Anchor]:
        """Those of this broker that one of its keys has signed: others write to the topic too."""
        known = self._keys | await export.keys(self._pool)
        name = f"\u2014 {self._log}/"
        return [one for one in found if name in one.attestation and one.signers(known)]

    async def _lost(self) -> Anchor | None:
        """The first published seal that the database has not, and that nobody has given up."""
        tenants = {one.tenant_id for one in self._odd}
        said = await restores.accepted(self._pool, tenants, log=self._log, keys=self._officers)
        for tenant_id, numbers in by_number(self._odd).items():
            for seal_no, digests in sorted(numbers.items()):
                if not gives_up(said.get(tenant_id, []), seal_no, digests):
                    return next(
                        one
                        for one in self._odd
                        if (one.tenant_id, one.seal_no) == (tenant_id, seal_no)
                    )
        return None


def newest_of(path: Path) -> list[Anchor]:
    """The last anchors of a file, oldest first; a line that a crash has torn is passed over."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        cut = file.seek(0, 2) > READ_MAX
        file.seek(-READ_MAX if cut else 0, 2 if cut else 0)
        lines = file.read().split(b"\n")[cut:]
    return list(anchors_among(lines))

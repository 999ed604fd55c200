"""Failed logins and denials on their way into the audit trail, bounded whatever callers do.

The first of a kind is written at once; equal ones of the same period are counted and written as
one event at its end, with the times of the first and the last. A kind is (tenant, actor, reason):
without a valid token there are as many as trusted issuers times reasons, and their log is the
broker's own, `_broker`, which no tenant can be. A tenant with very many of them has the others
counted under `many`, in its own log. Of refused calls a user's first are written one by one, before
they are answered, each with its tool. What could not be written is counted on, also where
a connection lost in its COMMIT leaves that in doubt: at least once. What a process has
counted and not written is lost with a kill -9: one period's counts.
"""

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from app.audit.store import events
from app.edges.auth.tokens import LoginFailedError
from app.identity import Identity
from app.intake.prepare import CallRequest
from app.logs import Sparse
from app.postgres.engine import tenant_transaction

logger = logging.getLogger(__name__)

LOG: Final = "_broker"
"""Not a tenant: the pattern of tenant ids, checked in tokens and in the database, excludes it."""

KINDS_MAX: Final = 5000
KINDS_OF_TENANT_MAX: Final = 200
PEERS_MAX: Final = 5
CALLS_IN_FULL: Final = 20
"""Refused calls of a user and a period that are written one by one."""
CALLS_MAX: Final = 20
"""What the count of the others tells apart."""
DETAIL_MAX: Final = 300
NAME_MAX: Final = 128
OTHERS: Final = ("others", "", "")
STOP_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What equal refusals have in common."""

    tenant_id: str
    type: str
    actor: str
    user_id: str | None
    reason: str
    issuer: str | None = None


@dataclass(slots=True)
class Counted:
    """Equal refusals that are in no event yet."""

    count: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None
    sample: dict[str, Any] = field(default_factory=dict)
    calls: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # tool, method, reason
    peers: set[str] = field(default_factory=set)

    def add(self, sample: dict[str, Any]) -> None:
        """One more, now."""
        self.count += 1
        self.last_at = datetime.now(UTC)
        if self.first_at is None:
            self.first_at, self.sample = self.last_at, sample

    def add_call(self, one: tuple[str, str, str]) -> None:
        """One more, of which its tool, method and reason are told apart."""
        self.add({})
        self.calls[one if one in self.calls or len(self.calls) < CALLS_MAX else OTHERS] += 1

    def give_back(self, taken: "Counted") -> None:
        """What was taken to be written was not; it came before what is here."""
        self.count += taken.count
        self.first_at, self.sample = taken.first_at, taken.sample
        self.last_at = self.last_at or taken.last_at
        self.peers = set(sorted(self.peers | taken.peers)[:PEERS_MAX])
        for one, count in taken.calls.items():
            known = one in self.calls or len(self.calls) < CALLS_MAX
            self.calls[one if known else OTHERS] += count


@dataclass(slots=True)
class Tally:
    """Refusals of one kind in this period."""

    counted: Counted = field(default_factory=Counted)
    written: bool = False  # an event of this period has some
    in_full: int = 0  # calls that were written one by one, or were to be


class Refusals:
    """Counts refusals, and writes them."""

    def __init__(self, engine: AsyncEngine, *, period_s: float) -> None:
        self._engine = engine
        self._period_s = period_s
        self._tallies: dict[Kind, Tally] = {}
        self._kinds: Counter[str] = Counter()  # by tenant
        self._some = asyncio.Event()
        self._stopping = False
        self._log = Sparse(logger, period_s=period_s)

    def login_failed(self, error: LoginFailedError, *, peer: str) -> None:
        """A credential was not valid."""
        self._log.info(f"login failed: {error.reason}", error.why, peer=peer)
        kind = Kind(
            tenant_id=LOG,
            type="login.failed",
            actor="unauthenticated",
            user_id=None,
            reason=str(error.reason),
            issuer=error.issuer,  # one of the settings', or None
        )
        self._count(kind, peer, {})

    def denied(self, who: Identity, *, reason: str, peer: str, detail: str, path: str) -> None:
        """A valid token was used for what it does not allow."""
        kind = Kind(
            tenant_id=who.tenant_id,
            type="access.denied",
            actor=f"client:{who.client_id}",
            user_id=who.user_id,
            reason=reason,
        )
        self._count(kind, peer, {"detail": detail[:DETAIL_MAX], "path": path[:DETAIL_MAX]})

    async def call(
        self,
        who: Identity,
        request: CallRequest,
        *,
        kind: str,
        reason: str,
        policy: str | None = None,
    ) -> None:
        """A call made no command: no grant for it, no such tool, or its person said no.

        `policy` is the digest of the grants, where a condition of theirs decided. Whether it is
        written or counted depends on neither tool nor reason, so its time tells a caller nothing of
        what there is.
        """
        tool, method = request.tool[:NAME_MAX], request.method[:NAME_MAX]
        of_user = Kind(
            tenant_id=who.tenant_id,
            type=kind,
            actor=f"user:{who.user_id}",
            user_id=who.user_id,
            reason="more of them",
        )
        tally = self._tally(of_user)
        if tally.in_full >= CALLS_IN_FULL:
            tally.counted.add_call((tool, method, reason))
            return
        tally.in_full += 1
        tally.written = True  # the others wait for the period's end
        try:
            async with tenant_transaction(self._engine, who.tenant_id) as conn:
                await events.append(
                    conn,
                    tenant_id=who.tenant_id,
                    kind=kind,
                    actor=of_user.actor,
                    user_id=who.user_id,
                    tool=tool,
                    method=method,
                    body={"client": who.client_id, "reason": reason}
                    | ({} if policy is None else {"policy": policy}),
                )
        except BaseException:
            # Perhaps in another period: the one that it began in may be over.
            self._tally(of_user).counted.add_call((tool, method, reason))
            raise

    def _tally(self, kind: Kind) -> Tally:
        if kind not in self._tallies:
            if self._kinds[kind.tenant_id] >= KINDS_OF_TENANT_MAX:
                kind = replace(kind, actor="many", user_id=None)
            elif len(self._tallies) >= KINDS_MAX:
                kind = replace(kind, tenant_id=LOG, actor="many", user_id=None)
        if kind not in self._tallies:
            self._tallies[kind] = Tally()
            self._kinds[kind.tenant_id] += 1
        return self._tallies[kind]

    def _forget(self, kind: Kind, tally: Tally) -> None:
        """Its period is over; what came while it was written begins the next."""
        if self._tallies.get(kind) is not tally:
            return
        if tally.counted.count:
            tally.written, tally.in_full = False, 0
            self._some.set()
        else:
            del self._tallies[kind]
            self._kinds[kind.tenant_id] -= 1
            if not self._kinds[kind.tenant_id]:
                del self._kinds[kind.tenant_id]

    def _count(self, kind: Kind, peer: str, sample: dict[str, Any]) -> None:
        tally = self._tally(kind)
        if not tally.written:
            self._some.set()
        tally.counted.add(sample)
        if len(tally.counted.peers) < PEERS_MAX:
            tally.counted.peers.add(peer)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Write inside the block; what was counted is written before it is left."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            # Not cancelled while it writes: what is committed and not noted would be written twice.
            self._stopping = True
            self._some.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    await task

    async def _run(self) -> None:
        until = time.monotonic() + self._period_s
        while not self._stopping:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0, until - time.monotonic())):
                    await self._some.wait()
            self._some.clear()
            over = time.monotonic() >= until  # also where there is always something new
            if over:
                until = time.monotonic() + self._period_s
            await self._write(close=over or self._stopping)
        await self._write(close=True)

    async def _write(self, *, close: bool) -> None:
        """Write the first of each kind; to close the period, also the rest, and forget it."""
        due: defaultdict[str, list[tuple[Kind, Tally]]] = defaultdict(list)
        for kind, tally in list(self._tallies.items()):
            if tally.counted.count and (close or not tally.written):
                due[kind.tenant_id].append((kind, tally))
            elif close:
                self._forget(kind, tally)
        for tenant_id, found in due.items():
            try:
                await self._write_tenant(tenant_id, found)
            except Exception as error:  # noqa: BLE001 one tenant's keep no other's from being written
                # Counted on, and written with the next: the tallies are bounded.
                logger.warning("refusals are not audited yet: %r", error)
                continue
            for kind, tally in found:
                tally.written = True
                if close:
                    self._forget(kind, tally)

    async def _write_tenant(self, tenant_id: str, found: list[tuple[Kind, Tally]]) -> None:
        """What is counted, in one transaction of a tenant's log; if that fails it stays counted."""
        taken = [(kind, tally.counted) for kind, tally in found]
        for _, tally in found:
            tally.counted = Counted()
        try:
            async with tenant_transaction(self._engine, tenant_id) as conn:
                for kind, counted in taken:
                    await events.append(
                        conn,
                        tenant_id=tenant_id,
                        kind=kind.type,
                        actor=kind.actor,
                        user_id=kind.user_id,
                        body=_body(kind, counted),
                    )
        except BaseException:
            for (_, tally), (_, counted) in zip(found, taken, strict=True):
                tally.counted.give_back(counted)
            raise


def _body(kind: Kind, counted: Counted) -> dict[str, Any]:
    assert counted.first_at is not None, "it counts one or more"
    assert counted.last_at is not None
    body: dict[str, Any] = {
        "reason": kind.reason,
        "count": counted.count,
        "first_at": counted.first_at.isoformat(),
        "last_at": counted.last_at.isoformat(),
        **counted.sample,
    }
    if counted.peers:
        body["peers"] = sorted(counted.peers)
    if counted.calls:
        body["calls"] = [
            {"tool": tool, "method": method, "reason": reason, "count": n}
            for (tool, method, reason), n in counted.calls.most_common()
        ]
    if kind.type == "login.failed":
        body["issuer"] = kind.issuer or "not one of ours"
    return body

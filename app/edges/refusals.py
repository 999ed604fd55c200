"""Failed logins and denials on their way into the audit trail, bounded whatever callers do.

The first of a kind is written at once; equal ones of the same period are counted and written as
one event at its end. A kind is (tenant, actor, reason): without a valid token there are as many as
trusted issuers times reasons, and their log is the broker's own, `_broker`, which no tenant can
be. Of refused calls a user's first are written one by one, before they are answered, each with its
tool. What a process has counted and not written is lost with a kill -9: one period's counts.
"""

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from app.catalog import Request
from app.db import audit_events
from app.db.engine import AWAY, tenant_transaction
from app.edges.identity import LoginFailedError
from app.policy import Identity

logger = logging.getLogger(__name__)

LOG: Final = "_broker"
"""Not a tenant: the pattern of tenant ids, checked in tokens and in the database, excludes it."""

KINDS_MAX: Final = 1000
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
class Tally:
    """Refusals of one kind in this period, and how many of them are written."""

    count: int = 0
    written: int = 0
    sample: dict[str, Any] = field(default_factory=dict)
    calls: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # tool, method, reason
    peers: set[str] = field(default_factory=set)


class Refusals:
    """Counts refusals, and writes them."""

    def __init__(self, engine: AsyncEngine, *, period_s: float) -> None:
        self._engine = engine
        self._period_s = period_s
        self._tallies: dict[Kind, Tally] = {}
        self._some = asyncio.Event()
        self._stopping = False

    def login_failed(self, error: LoginFailedError, *, peer: str) -> None:
        """A credential was not valid."""
        logger.info("login failed: %s %s", error.reason, error.why, extra={"peer": peer})
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

    async def call(self, who: Identity, request: Request, *, kind: str, reason: str) -> None:
        """A call made no command: no grant for it, no such tool, or its person said no.

        Whether it is written or counted depends on neither tool nor reason, so its time tells a
        caller nothing of what there is.
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
        tally.count += 1
        if tally.count > CALLS_IN_FULL:
            one = (tool, method, reason)
            tally.calls[one if one in tally.calls or len(tally.calls) < CALLS_MAX else OTHERS] += 1
            return
        tally.written += 1
        try:
            async with tenant_transaction(self._engine, who.tenant_id) as conn:
                await audit_events.append(
                    conn,
                    tenant_id=who.tenant_id,
                    kind=kind,
                    actor=of_user.actor,
                    user_id=who.user_id,
                    tool=tool,
                    method=method,
                    body={"client": who.client_id, "reason": reason},
                )
        except BaseException:
            tally.written -= 1  # it is counted
            raise

    def _tally(self, kind: Kind) -> Tally:
        if kind not in self._tallies and len(self._tallies) >= KINDS_MAX:
            kind = Kind(
                tenant_id=LOG, type=kind.type, actor="many", user_id=None, reason=kind.reason
            )
        return self._tallies.setdefault(kind, Tally())

    def _count(self, kind: Kind, peer: str, sample: dict[str, Any]) -> None:
        tally = self._tally(kind)
        if not tally.count:
            tally.sample = sample
            self._some.set()
        tally.count += 1
        if len(tally.peers) < PEERS_MAX:
            tally.peers.add(peer)

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
            try:
                async with asyncio.timeout(max(0, until - time.monotonic())):
                    await self._some.wait()
                over = False
            except TimeoutError:
                over, until = True, time.monotonic() + self._period_s
            self._some.clear()
            try:
                await self._write(close=over or self._stopping)
            except Exception:
                logger.exception("refusals are not audited")
        await self._write(close=True)

    async def _write(self, *, close: bool) -> None:
        """Write the first of each kind; to close the period, also the rest, and forget it."""
        due: defaultdict[str, list[tuple[Kind, Tally]]] = defaultdict(list)
        for kind, tally in list(self._tallies.items()):
            if tally.count > tally.written and (close or not tally.written):
                due[kind.tenant_id].append((kind, tally))
            elif close:
                del self._tallies[kind]
        for tenant_id, found in due.items():
            try:
                counts = await self._write_tenant(tenant_id, found)
            except AWAY as error:
                # Counted on, and written with the next: the tallies are bounded.
                logger.warning("refusals are not audited yet: %r", error)
                continue
            for (kind, tally), count in zip(found, counts, strict=True):
                tally.written = count
                if close and tally.count == count:
                    self._tallies.pop(kind, None)

    async def _write_tenant(self, tenant_id: str, found: list[tuple[Kind, Tally]]) -> list[int]:
        """One transaction for a tenant's log; the counts that are in it now."""
        counts = [tally.count for _, tally in found]
        async with tenant_transaction(self._engine, tenant_id) as conn:
            for (kind, tally), count in zip(found, counts, strict=True):
                body: dict[str, Any] = {
                    "reason": kind.reason,
                    "count": count - tally.written,
                    "within_s": self._period_s,
                    **tally.sample,
                }
                if tally.peers:
                    body["peers"] = sorted(tally.peers)
                if tally.calls:
                    body["calls"] = [
                        {"tool": tool, "method": method, "reason": reason, "count": n}
                        for (tool, method, reason), n in tally.calls.most_common()
                    ]
                    tally.calls.clear()
                if kind.type == "login.failed":
                    body["issuer"] = kind.issuer or "not one of ours"
                await audit_events.append(
                    conn,
                    tenant_id=tenant_id,
                    kind=kind.type,
                    actor=kind.actor,
                    user_id=kind.user_id,
                    body=body,
                )
        return counts

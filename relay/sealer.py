"""Seals the audit trail: dense numbers, a growing Merkle tree a tenant, signed checkpoints.

It follows the business transactions at a distance of about a second, because a chain inside them
costs five times the throughput. One relay seals at a time (a lease); a seal is written in one
transaction with its members, its anchor in the outbox and the watermark, so a crash leaves nothing
half done. Signing happens outside of it: the events of ended transactions cannot change meanwhile.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final
from uuid import uuid4

import asyncpg
import orjson

from app.audit import note
from app.audit import request as audit_request
from app.audit import seal as audit_seal
from app.audit.keys import Signer
from app.audit.request import Request, Retire
from app.audit.seal import Kind, Seal
from app.audit.store import retention, retiring, shape
from app.audit.store import seals as audit_seals
from app.audit.store.retiring import BrokenLogError, Retiring
from app.audit.store.seals import Head, Pending, Sealed, Watermark
from app.postgres import leases
from app.postgres.engine import AWAY
from relay import waits
from relay.past import Past, Published

logger = logging.getLogger(__name__)

LEASE: Final = "sealer"
SIGNING_MAX: Final = 16
"""Signatures asked for at a time, of a key service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Whose requests this relay seals, and how long it keeps events whoever asks."""

    keys: Mapping[str, bytes]  # of retention officers, by key id; none: nothing is retired
    kept_s: float | None  # None: for ever


NOTHING_RETIRES: Final = Retention(keys={}, kept_s=None)


@dataclass(slots=True)
class Counts:
    """What this relay has done, for its metrics."""

    events: int = 0
    seals: int = 0
    failures: int = 0
    lag_s: float = 0
    leading: bool = False
    shape_known: bool = True  # whether schema audit looks as it was signed


SHAPE_S: Final = 60.0
"""Period of the look at the schema's shape."""


class SignerError(Exception):
    """A signer gave a signature that is not its key's: nothing was written."""


class Sealer:
    """Seals for as long as `run` runs, while it has the lease."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        signers: Sequence[Signer],
        *,
        log: str,
        interval_s: float = 1.0,
        batch_max: int = 5000,
        lease_s: float = 15.0,
        open_s: float = 10.0,
        anchor_file: Path | None = None,
        published: Published | None = None,
        retention_policy: Retention = NOTHING_RETIRES,
        on_sealed: Callable[[], object] = lambda: None,
    ) -> None:
        """`log` names this broker in origins; the first signer is the one that seals name.

        `published` reads the newest anchors that Kafka has.
        """
        assert signers, "a seal is signed"
        assert note.origin_of(log, "tenant"), "a log's name that no note can carry fails at start"
        self._pool = pool
        self._signers = tuple(signers)
        self._keys = {note.key_id_of(one.public_key): one.public_key for one in signers}
        self._key_id = note.key_id_of(signers[0].public_key)
        self._log = log
        self._interval_s = interval_s
        self._batch_max = batch_max
        self._lease_s = lease_s
        self._anchor_file = anchor_file
        self._retention = retention_policy
        self._on_sealed = on_sealed
        self._past = Past(
            pool,
            log=log,
            keys=self._keys,
            officers=retention_policy.keys,
            anchor_file=anchor_file,
            published=published,
        )
        self._open_s = open_s
        self._held_up = False
        self._shape_at = float("-inf")
        self._owner = uuid4().hex
        self.counts = Counts()

    async def run(self, stop: asyncio.Event) -> None:
        """Seal every interval, and without a pause while there is more than a batch."""
        while not stop.is_set():
            try:
                if await self.tick():
                    continue
            except AWAY as error:
                self.counts.failures += 1
                self.counts.leading = False  # another relay may have the lease by now
                logger.warning("sealing waits: %r", error)
            except Exception:  # a key service has errors of its own
                self.counts.failures += 1
                logger.exception("sealing failed")
            await waits.until(stop, self._interval_s)
        self.counts.leading = False
        try:
            await leases.give_back(self._pool, name=LEASE, owner=self._owner)
        except AWAY as error:
            logger.info("the sealer's lease runs out by itself: %r", error)

    async def tick(self) -> bool:
        """Seal one batch if the lease is ours; whether there may be more."""
        epoch = await leases.take(self._pool, name=LEASE, owner=self._owner, lease_s=self._lease_s)
        self.counts.leading = epoch is not None
        if epoch is None:
            return False
        if await self._past.is_another():
            self.counts.failures += 1
            self.counts.leading = False  # nobody seals
            return False
        mark = await audit_seals.watermark(self._pool)
        more = await (self._follow if mark.adopted else self._adopt)(epoch, mark)
        for asked in await retention.asked(self._pool):
            await self._rule(asked)
        await self._sign_shape()
        return more

    async def _sign_shape(self) -> None:
        """Sign what schema audit looks like when it is new, and this release knows it."""
        if time.monotonic() - self._shape_at < SHAPE_S:
            return
        self._shape_at = time.monotonic()
        async with self._pool.acquire() as conn, conn.transaction():
            found, signed = await shape.now(conn), await shape.signed(conn)
        known = {self._key_id: self._keys[self._key_id]}
        same = signed is not None and signed.shape.lines == found.lines
        if same and signed is not None and signed.signers(known, log=self._log):
            self.counts.shape_known = True
            return
        self.counts.shape_known = found.known is not False
        if not self.counts.shape_known:
            odd = "all of it" if signed is None else found.differs(signed.shape)
            logger.error("schema audit is not this release's: %s; it is not signed", odd)
            return
        note_ = await self._note(found.text(self._log), self._log)
        await shape.add(self._pool, shape.SignedShape(shape=found, note=note_))

    async def _rule(self, asked: retention.Asked) -> None:
        """Seal what an officer's request asks for, or say why not; rows alone are nobody's word."""
        request = audit_request.parse(asked.request)
        refusal = self._refusal(request, now=asked.now)
        try:
            if request is not None and refusal is None and await self.retire(request):
                await retention.mark_signed(self._pool, asked.retirement_id)
        except BrokenLogError as error:
            refusal = str(error)
        if refusal is not None:
            logger.warning("a retirement is refused: %s", refusal)
            await retention.mark_refused(self._pool, asked.retirement_id, reason=refusal)

    def _refusal(self, request: Request | None, *, now: datetime) -> str | None:
        if request is None or not isinstance(request.asked, Retire):
            return "there is no request of a retention officer for it"
        if self._retention.kept_s is None:
            return "events are kept for ever: events_kept_s is not set"
        return audit_request.retirement_fault(
            request.note,
            log=self._log,
            keys=self._retention.keys,
            before=request.asked.before,
            at=now,
            kept_s=self._retention.kept_s,
        )

    async def retire(self, request: Request) -> bool:
        """Say in every log, sealed, that its events older than a request says may be gone.

        Their leaves stay in `members`, so all that is left can still be proved. A legal hold
        bounds what its tenant's log says. Who drops the events is another role, which cannot seal
        (`broker audit retire`). False: another relay seals, or it took over meanwhile.
        """
        assert isinstance(request.asked, Retire)
        epoch = await leases.take(self._pool, name=LEASE, owner=self._owner, lease_s=self._lease_s)
        if epoch is None:
            return False
        logs = await retiring.unretired(self._pool, before=request.asked.before)
        nothing = [
            Pending(tenant_id=one.tenant_id, event_ids=(), occurred_ats=(), leaves=(), xids=())
            for one in logs
        ]
        retired = {one.tenant_id: (one, request.note) for one in logs}
        return await self._write(epoch, await self._seal(nothing, retired=retired), None)

    async def _follow(self, epoch: int, mark: Watermark) -> bool:
        """Seal what the next ended transactions have written."""
        upto = await audit_seals.cut(self._pool, after=mark.xid, limit=self._batch_max)
        if upto is not None:
            pending = await audit_seals.in_range(self._pool, after=mark.xid, upto=upto.xid)
            mark = replace(mark, xid=upto.xid)
            await self._write(epoch, await self._seal(pending), mark)
        self.counts.lag_s = await audit_seals.lag_s(self._pool, after=mark.xid)
        if self.counts.lag_s > self._open_s:
            await self._overtake(epoch, mark)
        else:
            self._held_up = False
        return upto is not None and upto.full

    async def _overtake(self, epoch: int, mark: Watermark) -> None:
        """Seal past a transaction that does not end; what it writes will be sealed late.

        The watermark stays, so nothing of it is missed. Not at every tick: it looks at all that
        was written since.
        """
        if not self._held_up:
            logger.warning("a transaction is open for long: sealing goes on past it")
            await audit_seals.say_held_up(self._pool)
        self._held_up = True
        pending = await audit_seals.overtaking(self._pool, after=mark.xid, limit=self._batch_max)
        await self._write(epoch, await self._seal(pending), None)

    async def _adopt(self, epoch: int, mark: Watermark) -> bool:
        """Seal what a restored dump has brought; then start over, in this cluster's own ids."""
        pending = await audit_seals.from_elsewhere(self._pool, limit=self._batch_max)
        more = sum(len(one.event_ids) for one in pending) == self._batch_max
        await self._write(epoch, await self._seal(pending), None if more else mark)
        return True

    async def _seal(
        self,
        pending: Sequence[Pending],
        *,
        retired: Mapping[str, tuple[Retiring, str]] | None = None,
    ) -> list[Sealed]:
        requests = retired or {}
        heads = await audit_seals.heads(self._pool, [one.tenant_id for one in pending])
        slots = asyncio.Semaphore(SIGNING_MAX)

        async def seal(one: Pending) -> Sealed:
            async with slots:
                return await self._signed(one, heads[one.tenant_id], requests.get(one.tenant_id))

        return list(await asyncio.gather(*(seal(one) for one in pending)))

    async def _signed(
        self, pending: Pending, head: Head, retired: tuple[Retiring, str] | None
    ) -> Sealed:
        gone, request = retired or (None, None)
        tree = head.tree.grown(pending.leaves)
        name = note.origin_of(self._log, pending.tenant_id)
        text = note.checkpoint_text(origin=name, size=tree.size, root=tree.root)
        seal = Seal(
            tenant_id=pending.tenant_id,
            seal_no=head.seal_no + 1,
            kind=Kind.EVENTS if gone is None else Kind.RETIREMENT,
            seq_from=head.tree.size + 1,
            seq_to=tree.size,
            retired_before=None if gone is None else gone.before,
            root=tree.root,
            frontier=tree.packed,
            previous=head.digest,
            key_id=self._key_id,
            sealed_at=head.now,
            checkpoint=await self._note(text, name),
            request=request,
            retired_digest=None if gone is None else gone.digest,
            transactions=audit_seal.transactions_digest(pending.xids) if gone is None else None,
        )
        text = audit_seal.attestation_text(
            tenant_id=seal.tenant_id, seal_no=seal.seal_no, digest=seal.digest
        )
        return Sealed(seal=seal, attestation=await self._note(text, name), pending=pending)

    async def _note(self, text: str, name: str) -> str:
        """Sign with every key, and look at each signature: what is written stays for good."""
        signatures: dict[bytes, bytes] = {}
        for signer in self._signers:
            signature = await signer.sign(text.encode())
            if not note.signed(text.encode(), signature, signer.public_key):
                raise SignerError("A signer gave a signature that is not its key's.")
            signatures[signer.public_key] = signature
        return note.signed_note(text, signatures, name=name)

    async def _write(self, epoch: int, sealed: Sequence[Sealed], mark: Watermark | None) -> bool:
        async with self._pool.acquire() as conn, conn.transaction():
            if not await leases.hold(conn, name=LEASE, owner=self._owner, epoch=epoch):
                logger.warning("another relay seals now")
                return False
            if sealed:
                await audit_seals.write(conn, sealed, keys=self._keys)
            if mark is not None:
                await audit_seals.move_watermark(conn, cluster=mark.cluster, xid=mark.xid)
                if mark.before is not None and mark.before != mark.cluster:
                    await audit_seals.say_moved(conn, before=mark.before, cluster=mark.cluster)
        if not sealed:
            return True
        self.counts.seals += len(sealed)
        self.counts.events += sum(len(one.pending.event_ids) for one in sealed)
        if self._anchor_file is not None:
            lines = [orjson.dumps(audit_seals.anchor(one)) + b"\n" for one in sealed]
            await asyncio.to_thread(_append, self._anchor_file, b"".join(lines))
        self._on_sealed()
        return True


def _append(path: Path, lines: bytes) -> None:
    """Anchors in a file beside Kafka. A line lost in a crash is made up for by every later one."""
    with path.open("ab") as file:
        file.write(lines)

"""What adapters report, in batches: claims, progress and ends that arrive together share a commit.

A batch is one transaction with a statement for each kind. What a statement does not move, because
the attempt is stale, a retry is due or a cancel is answered, is looked at by itself afterwards
(`app.commands.results`). So each report fails alone, and a batch answers as single reports would.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from math import ceil
from random import Random
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
from sqlalchemy.ext.asyncio import AsyncEngine

from app.catalog.cache import Catalog
from app.catalog.policy import ToolPolicy
from app.commands import report as reported
from app.commands import results
from app.commands.report import ORDER, Answer, Kind, Report, Row, Subject
from app.commands.results import LeaseTimes
from app.commands.state import State
from app.commands.store import report_batch
from app.commands.watch import CommandFeed, announce
from app.errors import (
    NotBoundError,
    NotFoundError,
    UnavailableError,
)
from app.postgres.engine import AWAY, code_of, is_data_error, is_lost
from app.postgres.wakeups import Notifier

logger = logging.getLogger(__name__)

BATCHES_IN_FLIGHT: Final = 2
"""One batch is gathered while the other commits."""

BATCH_MIN: Final = 16
"""Reports below which a batch is not split for the sake of the next."""

ALONE_MAX: Final = 6
"""Reports looked at by themselves at a time: each has a connection of the everyday pool."""

SUBJECTS_KEPT_MAX: Final = 20_000


@dataclass(slots=True, kw_only=True)
class Waiting:
    """A report on its way into a batch."""

    report: Report
    done: "asyncio.Future[Answer]"
    subject: Subject | None = None
    policy: ToolPolicy = field(default_factory=ToolPolicy)
    misfit: str | None = None


class ReportBatcher:
    """The way in of every report. `report` returns once what it says is durable."""

    def __init__(
        self,
        engine: AsyncEngine,
        pool: asyncpg.Pool,
        notifier: Notifier,
        feed: CommandFeed,
        catalog: Catalog,
        *,
        leases: LeaseTimes,
        random: Random,
        batch_max: int,
        queue_max: int,
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._notifier = notifier
        self._feed = feed
        self._catalog = catalog
        self._leases = leases
        self._random = random
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._queue: deque[Waiting] = deque()
        self._some = asyncio.Event()
        self._busy: set[UUID] = set()  # commands of the batches that are being written
        self._in_flight = 0
        self._subjects: OrderedDict[UUID, Subject] = OrderedDict()
        self._alone = asyncio.Semaphore(ALONE_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def report(self, report: Report) -> Answer:
        """Apply a report; a repeat of the same one is answered alike and changes nothing.

        Raises:
            BrokerError: as `app.commands.results` says; UnavailableError where the database is
                away, or too many reports wait for it: then the report may be sent again.
            DBAPIError, asyncpg.PostgresError: the database refused it for a reason of its own.
        """
        if self._stopping or len(self._queue) >= self._queue_max:
            raise UnavailableError("The broker cannot take reports now; try again in a second.")
        waiting = Waiting(report=report, done=asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._some.set()
        return await waiting.done

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Serve `report` inside the block; what was queued is written before it is left."""
        workers = [asyncio.create_task(self._work()) for _ in range(BATCHES_IN_FLIGHT)]
        try:
            yield
        finally:
            self._stopping = True
            self._some.set()
            await asyncio.gather(*workers, *self._tasks)

    async def _work(self) -> None:
        while True:
            batch = self._take()
            if not batch:
                if self._stopping and not self._queue:
                    return
                self._some.clear()
                await self._some.wait()
                continue
            ids = {one.report.command_id for one in batch}
            self._busy |= ids
            self._in_flight += len(batch)
            try:
                await self._write(batch)
            except Exception as error:
                logger.exception("a batch of reports failed")
                _fail(batch, UnavailableError(f"The report was not taken ({code_of(error)})."))
            finally:
                self._in_flight -= len(batch)
                self._busy -= ids
                self._some.set()  # for reports of the same commands, and for who is stopping

    def _take(self) -> list[Waiting]:
        """The next batch: of each command its reports in their order, none that is being written.

        So two batches share no command, and what a command's adapter said first is written first.
        """
        batch: list[Waiting] = []
        left: list[Waiting] = []
        at: dict[UUID, int] = {}  # how far a command's reports are in this batch; or held back
        share = ceil((len(self._queue) + self._in_flight) / BATCHES_IN_FLIGHT)
        most = min(self._batch_max, max(share, BATCH_MIN))
        while self._queue and len(batch) < most:
            waiting = self._queue.popleft()
            name, order = waiting.report.command_id, ORDER[waiting.report.kind]
            if name in self._busy or order <= at.get(name, -1):
                left.append(waiting)
                at[name] = len(ORDER)
            elif not waiting.done.cancelled():
                batch.append(waiting)
                at[name] = order
        self._queue.extendleft(reversed(left))
        return batch

    async def _write(self, batch: Sequence[Waiting]) -> None:
        try:
            known = await self._known(batch)
            moved = await self._transact(known) if known else {}
        except AWAY as error:
            if is_lost(error):
                _fail(batch, reported.away(error))
                return
            if len(batch) == 1:
                await self._apart(batch[0])
                return
            logger.warning(
                "a batch of %d reports is written one by one: %s", len(batch), code_of(error)
            )
            for waiting in batch:
                await self._write([waiting])
            return
        for waiting in known:
            answer = moved.get(id(waiting))
            if answer is None:
                self._look_alone(waiting)
            elif not waiting.done.done():
                waiting.done.set_result(answer)

    def _look_alone(self, waiting: Waiting) -> None:
        task = asyncio.create_task(self._apart(waiting))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _apart(self, waiting: Waiting) -> None:
        """A report that no statement moved, in a transaction of its own."""
        async with self._alone:
            try:
                answer = await self._single(waiting)
            except AWAY as error:
                _fail([waiting], _told(error))
            except Exception as error:  # noqa: BLE001 it is the reporter's, and the edge logs it
                _fail([waiting], error)
            else:
                if not waiting.done.done():
                    waiting.done.set_result(answer)

    async def _single(self, waiting: Waiting) -> Answer:
        done = await results.apply(
            self._engine,
            waiting.report,
            policy=waiting.policy,
            hidden=_subject(waiting).hidden,
            leases=self._leases,
            random=self._random,
        )
        if waiting.report.kind in {Kind.RESULT, Kind.REJECT}:
            self._subjects.pop(waiting.report.command_id, None)
        if done.granted is not None:
            await self._remember(asdict(done.granted))
        if done.change is not None:
            announce(self._feed, self._notifier, done.change)
        return done.answer

    async def _known(self, batch: Sequence[Waiting]) -> list[Waiting]:
        """The reports whose command is known and may be spoken for, each with its subject."""
        unknown = [one.report for one in batch if self._recall(one) is None]
        foreign = await self._look_up(unknown) if unknown else frozenset[UUID]()
        known: list[Waiting] = []
        for one in batch:
            one.subject = one.subject or self._recall(one)
            name = one.report.command_id
            if one.subject is None or not one.subject.is_open_to(one.report.adapter):
                # What is another's reads as what never was; it is audited as a denial.
                kind = (
                    NotFoundError if one.subject is None and name not in foreign else NotBoundError
                )
                _fail([one], kind(f"There is no command {name}.", correlation_id=str(name)))
                continue
            compiled = await self._catalog.find(one.subject.tool, one.subject.method)
            if compiled is not None:
                one.policy = compiled.tool.policy
                one.misfit = reported.misfit(one.report, compiled.output)
            if one.misfit is not None and one.policy.on_misfit == "refuse":
                _fail([one], reported.refused(one.misfit))
                continue
            known.append(one)
        return known

    def _recall(self, waiting: Waiting) -> Subject | None:
        """A subject that is in memory, or that a claim names: its statement checks that."""
        report = waiting.report
        found = self._subjects.get(report.command_id)
        if found is None and report.named is not None:
            tenant_id, tool, method = report.named
            waiting.subject = Subject(
                tenant_id=tenant_id, tool=tool, method=method, ordering_key=None, hidden=frozenset()
            )
            return waiting.subject
        return found

    async def _look_up(self, reports: Sequence[Report]) -> frozenset[UUID]:
        """Read subjects; returns those of others' tenants, which cost no more than none at all."""
        async with self._pool.acquire() as conn:
            tenants = await report_batch.tenants_of(conn, [one.command_id for one in reports])
            bound = {
                one.command_id: tenant_id
                for one in reports
                if (tenant_id := tenants.get(one.command_id)) is not None
                and (one.adapter.tenants is None or tenant_id in one.adapter.tenants)
            }
            foreign = frozenset(tenants) - bound.keys()
            if not bound:
                return foreign
            async with report_batch.transaction(conn, sorted(set(bound.values()))):
                rows = await report_batch.subjects(conn, list(bound))
        for row in rows:
            await self._remember(dict(row))
        return foreign

    async def _remember(self, row: Mapping[str, Any]) -> None:
        compiled = await self._catalog.find(row["tool"], row["method"])
        hidden: frozenset[str] = frozenset()
        if compiled is None or compiled.marked:
            args = row["args"]
            args = orjson.loads(args) if isinstance(args, str) else args
            hidden = await self._catalog.secrets(row["tool"], row["method"], args)
        self._subjects[row["id"]] = Subject(
            tenant_id=row["tenant_id"],
            tool=row["tool"],
            method=row["method"],
            ordering_key=row["ordering_key"],
            hidden=hidden,
        )
        while len(self._subjects) > SUBJECTS_KEPT_MAX:
            self._subjects.popitem(last=False)

    async def _transact(self, batch: Sequence[Waiting]) -> dict[int, Answer]:
        """Write what the statements take, in one transaction; its reports, by identity."""
        claims = [
            one
            for one in batch
            if one.report.kind is Kind.CLAIM and _subject(one).is_named(one.report)
        ]
        told = [one for one in batch if one.report.kind is Kind.PROGRESS]
        ends = [one for one in batch if one.report.kind is Kind.RESULT]
        if not (claims or told or ends):
            return {}
        keys = sorted({key for one in ends if (key := _subject(one).key) is not None})
        tenants = sorted({_subject(one).tenant_id for one in batch})
        async with (
            self._pool.acquire() as conn,
            report_batch.transaction(conn, tenants),
        ):
            if keys:
                await report_batch.lock_heads(conn, keys)
            claimed = await report_batch.claim(
                conn, [self._row(reported.claim_row, one) for one in claims]
            )
            progressed = await report_batch.progress(
                conn, [self._row(reported.progress_row, one) for one in told]
            )
            over = await report_batch.end(conn, [self._row(reported.end_row, one) for one in ends])
            woken: list[UUID] = []
            if keys and over:
                woken = await report_batch.activate_next(conn, keys, [row["id"] for row in over])
        answers = await self._granted(claims, claimed)
        for one, row in _paired(told, progressed):
            answers[id(one)] = reported.heard(cancel_requested=row["cancel_requested"])
        for one, row in _paired(ends, over):
            answers[id(one)] = reported.ended(
                State(row["state"]), repeated=False, misfit=one.misfit
            )
            self._subjects.pop(row["id"], None)
        self._announce([*claimed, *progressed], over, woken)
        return answers

    def _row(self, made: Row, one: Waiting) -> tuple[object, ...]:
        return made(one.report, _subject(one), one.policy, self._leases.lease_s)

    async def _granted(
        self, claims: Sequence[Waiting], rows: Sequence[asyncpg.Record]
    ) -> dict[int, Answer]:
        answers: dict[int, Answer] = {}
        for one, row in _paired(claims, rows):
            await self._remember(dict(row))
            lease_s = one.policy.lease_s or self._leases.lease_s
            fields = dict(row) | {"args": orjson.Fragment(row["args"] or "null")}
            answers[id(one)] = Answer(status=200, body=reported.go(fields, lease_s))
        return answers

    def _announce(
        self,
        moved: Sequence[asyncpg.Record],
        ended: Sequence[asyncpg.Record],
        woken: Sequence[UUID],
    ) -> None:
        """Wake whoever waits for what was committed; who waits here is given the end itself."""
        self._feed.changed([*(row["id"] for row in moved), *woken])
        for row in ended:
            if self._feed.watched(row["id"]):
                self._feed.put(report_batch.command_of(row))
        self._notifier.commands([*(row["id"] for row in (*moved, *ended)), *woken])
        if ended:
            self._notifier.outbox()
        if any(row["saga_id"] is not None for row in ended):
            self._notifier.sagas()
        if logger.isEnabledFor(logging.INFO):
            for row in ended:
                logger.info(row["state"], extra={"correlation_id": str(row["id"])})


def _subject(one: Waiting) -> Subject:
    assert one.subject is not None, "a report without a subject was refused"
    return one.subject


def _paired(
    waiting: Sequence[Waiting], rows: Sequence[asyncpg.Record]
) -> list[tuple[Waiting, asyncpg.Record]]:
    """The reports that a statement moved, each with its row."""
    found = {row["id"]: row for row in rows}
    return [(one, found[name]) for one in waiting if (name := one.report.command_id) in found]


def _told(error: Exception) -> Exception:
    """What a reporter is told of a database error; of one that nobody foresaw the edge tells."""
    if is_data_error(error):
        return reported.unkept(error)
    return reported.away(error) if is_lost(error) else error


def _fail(batch: Sequence[Waiting], error: Exception) -> None:
    for waiting in batch:
        if not waiting.done.done():
            waiting.done.set_exception(error)

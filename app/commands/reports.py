"""What adapters report, in batches: claims, progress or ends that arrive together share a commit.

A batch is one transaction, with one statement, of reports of a kind. What the statement does not
move, because the attempt is stale, a retry is due or a cancel is answered, is looked at by itself
afterwards (`app.commands.results`). So each report fails alone, and a batch answers as single
reports would.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
from sqlalchemy.ext.asyncio import AsyncEngine

from app.catalog.cache import Catalog
from app.catalog.policy import ToolPolicy
from app.catalog.redaction import NO_SECRETS
from app.commands import measures, results
from app.commands import report as reported
from app.commands.attempts import outcome_is_unknown
from app.commands.report import Answer, Kind, Report, Row, Subject
from app.commands.results import LeaseTimes
from app.commands.state import State
from app.commands.store import report_batch
from app.commands.watch import CommandFeed, announce
from app.errors import NotBoundError, NotFoundError
from app.postgres.batcher import Batcher, Waiting
from app.postgres.engine import AWAY, is_data_error, is_lost
from app.postgres.statements import Connection
from app.postgres.wakeups import Notifier
from app.traces.context import log_ids

logger = logging.getLogger(__name__)

ALONE_MAX: Final = 6
"""Reports looked at by themselves at a time: each has a connection of the everyday pool."""

SUBJECTS_KEPT_MAX: Final = 20_000


LOOKED_AT_MAX: Final = 2_000
"""Reports of the queue that are looked at for a batch: most of a long one can be of other kinds."""

Reporting = Waiting[Report, Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A report whose command is known, and for whom its adapter may speak."""

    waiting: Reporting
    subject: Subject
    policy: ToolPolicy
    misfit: str | None

    @property
    def report(self) -> Report:
        """What was reported."""
        return self.waiting.item

    @property
    def is_named(self) -> bool:
        """Whether its event, if it is a claim of one, speaks of this command."""
        return self.subject.is_named(self.report)


class ReportBatcher(Batcher[Report, Answer]):
    """The way in of every report. `report` returns once what it says is durable."""

    named = "report"

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
        traced: bool = False,
    ) -> None:
        super().__init__(batch_max=batch_max, queue_max=queue_max)
        self._engine = engine
        self._pool = pool
        self._notifier = notifier
        self._feed = feed
        self._catalog = catalog
        self._leases = leases
        self._random = random
        self._traced = traced  # what adapters ask for is a child of their attempt's span
        self._busy: set[UUID] = set()  # commands one of whose reports is being written
        self._subjects: OrderedDict[UUID, Subject] = OrderedDict()
        self._alone = asyncio.Semaphore(ALONE_MAX)
        self._tasks: dict[UUID, asyncio.Task[None]] = {}  # by the command of the report

    async def report(self, report: Report) -> Answer:
        """Apply a report; a repeat of the same one is answered alike and changes nothing.

        Raises:
            BrokerError: as `app.commands.results` says; UnavailableError where the database is
                away, or too many reports wait for it: then the report may be sent again.
            DBAPIError, asyncpg.PostgresError: the database refused it for a reason of its own.
        """
        return await self.put(report)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Serve `report` inside the block; what was queued is written before it is left."""
        async with super().running():
            yield
        await asyncio.gather(*self._tasks.values())

    def _choose(self, most: int) -> list[Reporting]:
        """The next batch: reports of one kind, one a command, of none that is being written.

        So two batches share no command, and what a command's adapter said first is written first.
        """
        batch: list[Reporting] = []
        left: list[Reporting] = []
        passed: set[UUID] = set()  # commands that have a report in the batch, or a waiting one
        kind: Kind | None = None
        while self._queue and len(batch) < most and len(batch) + len(left) < LOOKED_AT_MAX:
            waiting = self._queue.popleft()
            if waiting.done.cancelled():
                continue
            name = waiting.item.command_id
            free = name not in self._busy and name not in passed
            passed.add(name)
            if free and kind in {None, waiting.item.kind}:
                kind = waiting.item.kind
                batch.append(waiting)
            else:
                left.append(waiting)
        self._queue.extendleft(reversed(left))
        self._busy |= {waiting.item.command_id for waiting in batch}
        return batch

    async def _write(self, batch: Sequence[Reporting]) -> None:
        known = await self._known(batch)
        moved = await self._transact(batch[0].item.kind, known) if known else {}
        for one in known:
            answer = moved.get(one.report.command_id)
            if answer is None:
                self._look_alone(one)
            else:
                one.waiting.answer(answer)

    def _over(self, batch: Sequence[Reporting]) -> None:
        """Later reports of these commands may go, but of those that are still looked at."""
        self._busy -= {waiting.item.command_id for waiting in batch} - self._tasks.keys()

    def _away(self, error: Exception) -> Exception:
        return reported.away(error)

    async def _refused(self, waiting: Reporting, _error: Exception) -> None:
        """By itself, and by the code of single reports, which tells what is wrong with it."""
        try:
            known = await self._known([waiting])
        except AWAY as again:
            waiting.fail(_told(again))
            return
        for one in known:
            await self._apart(one)

    def _look_alone(self, one: Known) -> None:
        name = one.report.command_id
        task = self._tasks[name] = asyncio.create_task(self._apart(one))

        def over(_: object) -> None:
            del self._tasks[name]
            self._busy.discard(name)
            self._some.set()

        task.add_done_callback(over)

    async def _apart(self, one: Known) -> None:
        """A report that no statement moved, in a transaction of its own."""
        async with self._alone:
            try:
                answer = await self._single(one)
            except AWAY as error:
                one.waiting.fail(_told(error))
            except Exception as error:  # noqa: BLE001 it is the reporter's, and the edge logs it
                one.waiting.fail(error)
            else:
                one.waiting.answer(answer)

    async def _single(self, one: Known) -> Answer:
        done = await results.apply(
            self._engine,
            one.report,
            policy=one.policy,
            hidden=one.subject.hidden,
            leases=self._leases,
            random=self._random,
            misfit=one.misfit,
        )
        if one.report.kind in {Kind.RESULT, Kind.REJECT}:
            self._subjects.pop(one.report.command_id, None)
        if done.granted is not None:
            await self._remember(asdict(done.granted))
        if done.change is not None:
            announce(self._feed, self._notifier, done.change)
        if done.granted is not None and self._traced:
            return replace(done.answer, body=reported.continued(done.answer.body))
        return done.answer

    async def _known(self, batch: Sequence[Reporting]) -> list[Known]:
        """The reports whose command is known and may be spoken for, each with its subject."""
        unknown = [one.item for one in batch if self._recall(one.item) is None]
        foreign = await self._look_up(unknown) if unknown else frozenset[UUID]()
        known: list[Known] = []
        for one in batch:
            subject, name = self._recall(one.item), one.item.command_id
            if subject is None or not subject.is_open_to(one.item.adapter):
                # What is another's reads as what never was; it is audited as a denial.
                never = subject is None and name not in foreign
                kind = NotFoundError if never else NotBoundError
                one.fail(kind(f"There is no command {name}.", correlation_id=str(name)))
                continue
            policy, misfit = ToolPolicy(), None
            compiled = await self._catalog.find(subject.tool, subject.method)
            if compiled is not None:
                policy = compiled.tool.policy
                misfit = reported.misfit(one.item, compiled.output)
            if misfit is not None and policy.on_misfit == "refuse":
                one.fail(reported.refused(misfit))
                continue
            known.append(Known(waiting=one, subject=subject, policy=policy, misfit=misfit))
        return known

    def _recall(self, report: Report) -> Subject | None:
        """A subject that is in memory, or that a claim names: its statement checks that."""
        found = self._subjects.get(report.command_id)
        if found is None and report.named is not None:
            tenant_id, tool, method = report.named
            return Subject(
                tenant_id=tenant_id, tool=tool, method=method, ordering_key=None, hidden=NO_SECRETS
            )
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
        hidden = NO_SECRETS
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

    async def _transact(self, kind: Kind, batch: Sequence[Known]) -> dict[UUID, Answer]:
        """Write what the kind's statement takes, in one transaction; the answers, by command."""
        match kind:
            case Kind.CLAIM:
                return await self._claims([one for one in batch if one.is_named])
            case Kind.PROGRESS:
                return await self._progress(batch)
            case Kind.RESULT:
                # An outcome in doubt is looked at alone.
                return await self._ends(
                    [one for one in batch if not outcome_is_unknown(one.report.error)]
                )
            case Kind.REJECT | Kind.RUN:
                return {}  # each is looked at alone

    @asynccontextmanager
    async def _transaction(self, batch: Sequence[Known]) -> AsyncGenerator[Connection]:
        tenants = sorted({one.subject.tenant_id for one in batch})
        async with self._pool.acquire() as conn, report_batch.transaction(conn, tenants):
            yield conn

    def _rows(self, made: Row, batch: Sequence[Known]) -> list[tuple[object, ...]]:
        lease_s = self._leases.lease_s
        return [made(one.report, one.subject, one.policy, lease_s) for one in batch]

    async def _claims(self, batch: Sequence[Known]) -> dict[UUID, Answer]:
        if not batch:
            return {}
        async with self._transaction(batch) as conn:
            rows = await report_batch.claim(conn, self._rows(reported.claim_row, batch))
        policies = {one.report.command_id: one.policy for one in batch}
        answers: dict[UUID, Answer] = {}
        for row in rows:
            await self._remember(dict(row))
            answer = reported.granted(dict(row), policies[row["id"]], self._leases.lease_s)
            if self._traced:
                answer = replace(answer, body=reported.continued(answer.body))
            answers[row["id"]] = answer
        self._announce_moves(rows)
        return answers

    async def _progress(self, batch: Sequence[Known]) -> dict[UUID, Answer]:
        async with self._transaction(batch) as conn:
            rows = await report_batch.progress(conn, self._rows(reported.progress_row, batch))
        self._announce_moves(rows)
        return {row["id"]: reported.heard(cancel_requested=row["cancel_requested"]) for row in rows}

    async def _ends(self, batch: Sequence[Known]) -> dict[UUID, Answer]:
        if not batch:
            return {}
        keys = sorted({key for one in batch if (key := one.subject.key) is not None})
        woken: list[UUID] = []
        async with self._transaction(batch) as conn:
            if keys:
                await report_batch.lock_heads(conn, keys)
            rows = await report_batch.end(conn, self._rows(reported.end_row, batch))
            if keys and rows:
                woken = await report_batch.activate_next(conn, keys, [row["id"] for row in rows])
        misfits = {one.report.command_id: one.misfit for one in batch}
        for row in rows:
            self._subjects.pop(row["id"], None)
        self._announce_ends(rows, woken)
        return {
            row["id"]: reported.ended(
                State(row["state"]), repeated=False, misfit=misfits[row["id"]]
            )
            for row in rows
        }

    def _announce_moves(self, rows: Sequence[asyncpg.Record]) -> None:
        """Wake whoever waits for what was committed."""
        moved = [row["id"] for row in rows]
        self._feed.moved(moved)
        self._notifier.moves(moved)

    def _announce_ends(self, rows: Sequence[asyncpg.Record], woken: Sequence[UUID]) -> None:
        """Wake whoever waits for what has ended; who waits here is given the end itself."""
        if not rows:
            return
        self._feed.changed(woken)
        for row in rows:
            measures.ended(**{name: row[name] for name in measures.OF_AN_END})
            if self._feed.watched(row["id"]):
                self._feed.put(report_batch.command_of(row))
        self._notifier.commands([*(row["id"] for row in rows), *woken])
        self._notifier.outbox()
        if any(row["saga_id"] is not None for row in rows):
            self._notifier.sagas()
        if logger.isEnabledFor(logging.INFO):
            for row in rows:
                moved = {"correlation_id": str(row["id"])} | log_ids(row["traceparent"])
                logger.info(row["state"], extra=moved)


def _told(error: Exception) -> Exception:
    """What a reporter is told of a database error; of one that nobody foresaw the edge tells."""
    if is_data_error(error):
        return reported.unkept(error)
    return reported.away(error) if is_lost(error) else error

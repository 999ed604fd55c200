"""Accepting a call: one transaction for the command, its outbox row and its audit event.

Calls that arrive together share a transaction (a micro-batch), so one fsync carries many; a call
that the database refuses fails alone, as the batch is then written one by one.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from app.errors import (
    BadRequestError,
    BrokerError,
    CorrelationConflictError,
    IdempotencyConflictError,
    UnavailableError,
)
from app.intake import store as intake_store
from app.intake.call import Call
from app.intake.store import Written
from app.postgres.batcher import Batcher, Waiting
from app.postgres.engine import AWAY, code_of, is_data_error, is_lost
from app.postgres.wakeups import Notifier

logger = logging.getLogger(__name__)

TRIES: Final = 3
"""For a call whose earlier twin releases its key between two statements, or in them."""

SCOPE: Final = "SELECT set_config('app.tenants', $1::text[]::text, true)"

Write = Callable[[PoolConnectionProxy], Awaitable[Written | None]]
"""Writes a call and what belongs to it; None as `intake.write` returns it."""


Accepting = Waiting[Call, Written]


class IntakeBatcher(Batcher[Call, Written]):
    """The way in. `accept` returns once the call is durable."""

    named = "call"

    def __init__(
        self, pool: asyncpg.Pool, notifier: Notifier, *, batch_max: int, queue_max: int
    ) -> None:
        super().__init__(batch_max=batch_max, queue_max=queue_max)
        self._pool = pool
        self._notifier = notifier

    async def accept(self, call: Call) -> Written:
        """Write the call, or find the command that its idempotency key names.

        Cancelling this leaves either a whole command or none; a retry with the same key tells.

        Raises:
            IdempotencyConflictError: the key was used for another request.
            CorrelationConflictError: the correlation id is another command's.
            UnavailableError: the database is away, or too many calls wait for it.
        """
        return _same_request(call, await self.put(call))

    async def accept_with(self, call: Call, write: Write) -> Written:
        """Accept a call that is written with more than itself: in a transaction of its own.

        Raises as `accept`, and what `write` raises.
        """
        if self.closed:
            raise self.full()
        for _ in range(TRIES):
            try:
                written = await self._written_with(call, write)
            except AWAY as error:
                if is_lost(error):
                    raise _away(error) from error
                logger.exception("call refused by the database")
                raise _refused(error) from error
            if written is not None:
                self._notifier.outbox()
                self._notifier.sagas()
                return _same_request(call, written)
        raise _correlation_conflict(call)

    async def _written_with(self, call: Call, write: Write) -> Written | None:
        """Nothing stays of a transaction in which the call itself was not written."""
        async with self._pool.acquire() as conn:
            transaction = conn.transaction()
            await transaction.start()
            try:
                await conn.execute(SCOPE, [call.tenant_id])
                written = await write(conn)
            except BaseException:
                await transaction.rollback()
                raise
            if written is not None and written.new:
                await transaction.commit()
            else:
                await transaction.rollback()
        if written is not None:
            return written
        async with self._acquired([call.tenant_id]) as conn:
            [found] = await intake_store.find_conflicting(conn, [call])
        return found

    async def earlier(self, call: Call) -> Written | None:
        """The command that the call's idempotency key names already, if there is one.

        Raises:
            IdempotencyConflictError: the key was used for another request.
            UnavailableError: the database is away.
        """
        try:
            async with self._acquired([call.tenant_id]) as conn:
                [found] = await intake_store.find_earlier(conn, [call])
        except AWAY as error:
            raise _away(error) from error
        return None if found is None else _same_request(call, found)

    def _choose(self, most: int) -> list[Accepting]:
        """The next batch: no correlation id in it twice, as the statement tells calls by it."""
        batch: list[Accepting] = []
        seen = set[object]()
        while self._queue and len(batch) < most:
            waiting = self._queue[0]
            if not waiting.done.cancelled():
                if waiting.item.correlation_id in seen:
                    break
                seen.add(waiting.item.correlation_id)
                batch.append(waiting)
            self._queue.popleft()
        return batch

    async def _write(self, batch: Sequence[Accepting]) -> None:
        written = await self._transact([waiting.item for waiting in batch])
        self._notifier.calls()
        for waiting, outcome in zip(batch, written, strict=True):
            if outcome is not None:
                waiting.answer(outcome)
        met = [waiting for waiting in batch if not waiting.done.done()]
        if met:
            await self._meet(met)

    def _away(self, error: Exception) -> UnavailableError:
        return _away(error)

    async def _refused(self, waiting: Accepting, _error: Exception) -> None:
        logger.error("call refused by the database", exc_info=_error)
        waiting.fail(_refused(_error))

    async def _meet(self, batch: Sequence[Accepting]) -> None:
        """Find what the keys name of calls that were not written.

        In a transaction of its own, and not for a key that waits: the statement that wrote
        waited for whoever held the key, and that one's commit is seen from here on.
        """
        try:
            async with self._acquired([waiting.item.tenant_id for waiting in batch]) as conn:
                found = await intake_store.find_conflicting(
                    conn, [waiting.item for waiting in batch]
                )
        except AWAY as error:
            for waiting in batch:
                waiting.fail(_away(error))
            return
        for waiting, outcome in zip(batch, found, strict=True):
            await self._settle(waiting, outcome)

    async def _settle(self, waiting: Accepting, outcome: Written | None) -> None:
        for _ in range(TRIES):
            if outcome is not None:
                break
            [outcome] = await self._transact([waiting.item])
            if outcome is None:
                async with self._acquired([waiting.item.tenant_id]) as conn:
                    [outcome] = await intake_store.find_conflicting(conn, [waiting.item])
            else:
                self._notifier.calls()
        if outcome is not None:
            waiting.answer(outcome)
        else:
            waiting.fail(_correlation_conflict(waiting.item))

    async def _transact(self, calls: Sequence[Call]) -> list[Written | None]:
        """Write a batch in one transaction; that of a single statement commits itself."""
        keys = sorted({(c.tenant_id, c.ordering_key) for c in calls if c.ordering_key is not None})
        async with self._pool.acquire() as conn:
            if not keys:
                return await intake_store.write(conn, calls)
            async with conn.transaction():
                written = await intake_store.write(conn, calls)
                await intake_store.activate_next(conn, keys)
                return written

    @asynccontextmanager
    async def _acquired(self, tenants: Sequence[str]) -> AsyncGenerator[PoolConnectionProxy]:
        """A connection within a transaction of these tenants."""
        async with self._pool.acquire() as conn, conn.transaction():
            await conn.execute(SCOPE, tenants)
            yield conn


def _same_request(call: Call, written: Written) -> Written:
    if written.fingerprint != call.fingerprint:
        raise IdempotencyConflictError(
            f"Idempotency key {call.idempotency_key!r} was used for another request: command"
            f" {written.id}. To repeat that request send it unchanged; for a new request use"
            " a new key.",
            command_id=str(written.id),
        )
    return written


def _correlation_conflict(call: Call) -> BrokerError:
    error = f"Correlation id {call.correlation_id} belongs to another command; send a new one."
    return CorrelationConflictError(error, correlation_id=str(call.correlation_id))


def _away(error: Exception) -> UnavailableError:
    return UnavailableError(f"The database is away; nothing is lost ({code_of(error)}).")


def _refused(error: Exception) -> BrokerError:
    """What the database refuses as data (class 22) is the call's fault, and no retry helps."""
    if is_data_error(error):
        return BadRequestError("A value of the call is one that cannot be stored.")
    return UnavailableError(f"The call was not accepted ({code_of(error)}).")

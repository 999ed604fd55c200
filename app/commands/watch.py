"""Waiting for commands: one loader a process serves every waiter, woken by any replica."""

import asyncio
import logging
from collections import OrderedDict, defaultdict
from collections.abc import AsyncGenerator, Generator, Iterable
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager, suppress
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from app.commands import measures
from app.commands.attempts import Change
from app.commands.store import commands, progress
from app.commands.store.commands import Command
from app.commands.store.progress import Progress
from app.postgres import wakeups
from app.postgres.engine import AWAY, tenant_transaction
from app.postgres.wakeups import Notifier
from app.traces.context import log_ids

logger = logging.getLogger(__name__)

LOAD_MAX: Final = 1000
"""Commands per query."""

POLL_MAX: Final = 100
"""Commands of the poll per query: what is told of meanwhile waits for one such query at most."""

HEARD_MAX: Final = 10_000
"""Ended commands that nobody waits for yet, which are remembered for who is about to."""


class Subscription:
    """One waiter's view of one command: the newest state, and a flag that it is new."""

    def __init__(
        self,
        tenant_id: str,
        command_id: UUID,
        *,
        end_only: bool,
        some: asyncio.Event | None = None,
    ) -> None:
        """`some` is set when there is something new; of its own, or shared with others."""
        self.tenant_id = tenant_id
        self.command_id = command_id
        self.end_only = end_only
        self._newest: Command | None = None
        self._some = some or asyncio.Event()

    def put(self, command: Command) -> None:
        """A state was read; polling reads the same one often."""
        if command != self._newest:
            self._newest = command
            self._some.set()

    @property
    def newest(self) -> Command | None:
        """The newest state that was read; None before the first."""
        return self._newest

    async def change(self, timeout_s: float) -> Command | None:
        """The next state that differs from the last one given; None after the timeout."""
        try:
            async with asyncio.timeout(max(0, timeout_s)):
                await self._some.wait()
        except TimeoutError:
            return None
        self._some.clear()
        return self._newest


class CommandFeed:
    """Reads changed commands once, however many wait for them, and polls as a net."""

    def __init__(self, engine: AsyncEngine, *, poll_s: float) -> None:
        self._engine = engine
        self._poll_s = poll_s
        self._watches: defaultdict[UUID, set[Subscription]] = defaultdict(set)
        self._dirty: set[UUID] = set()
        self._marks: dict[str, UUID] = {}
        self._heard: OrderedDict[str, None] = OrderedDict()  # by their marks
        self._some = asyncio.Event()

    def changed(self, ids: Iterable[UUID]) -> None:
        """These commands changed, and may have ended."""
        told = set(ids)
        self._read(told & self._watches.keys())
        self._remember(map(wakeups.mark, told - self._watches.keys()))

    def _remember(self, marks: Iterable[str]) -> None:
        self._heard.update(dict.fromkeys(marks))
        while len(self._heard) > HEARD_MAX:
            self._heard.popitem(last=False)

    def moved(self, ids: Iterable[UUID]) -> None:
        """These commands changed and have not ended: who waits for the end need not know."""
        told = set(ids) & self._watches.keys()
        self._read({one for one in told if not self._is_for_its_end(one)})

    def _is_for_its_end(self, command_id: UUID) -> bool:
        """Whether all who wait for a command wait for its end alone."""
        return all(watch.end_only for watch in self._watches.get(command_id, ()))

    def _read(self, ids: AbstractSet[UUID]) -> None:
        if ids:
            self._dirty |= ids
            self._some.set()

    def watched(self, command_id: UUID) -> bool:
        """Whether anybody here waits for it."""
        return command_id in self._watches

    def put(self, command: Command) -> None:
        """A command as it was just committed: who waits for it need not have it read."""
        for watch in self._watches.get(command.id, ()):
            if watch.tenant_id == command.tenant_id:
                watch.put(command)

    def notified(self, payload: str) -> None:
        """A notification came; one that names none says that anything may have changed."""
        named = wakeups.marks(payload)
        self._remember(named - self._marks.keys())
        self.changed(self._watched(named))

    def notified_of_moves(self, payload: str) -> None:
        """As `notified`, of commands that have not ended."""
        self.moved(self._watched(wakeups.marks(payload)))

    def _watched(self, named: set[str]) -> list[UUID]:
        """Those of the named that are waited for here; of none named, all."""
        if not named:
            return list(self._watches)
        return [self._marks[one] for one in self._marks.keys() & named]

    @contextmanager
    def watch(
        self,
        tenant_id: str,
        command_id: UUID,
        *,
        end_only: bool = False,
        just_written: bool = False,
        some: asyncio.Event | None = None,
    ) -> Generator[Subscription]:
        """Follow a command; its present state comes first.

        With `end_only` its moves before the end may go untold. Of one that this process has
        `just_written` the state is known, so it is read only if it was told of in the meantime.
        """
        watch = Subscription(tenant_id, command_id, end_only=end_only, some=some)
        self._watches[command_id].add(watch)
        mark = wakeups.mark(command_id)
        self._marks[mark] = command_id
        if not just_written or mark in self._heard:
            self._read({command_id})
        try:
            yield watch
        finally:
            self._watches[command_id].discard(watch)
            if not self._watches[command_id]:
                del self._watches[command_id]
                del self._marks[mark]

    @contextmanager
    def watch_several(self, tenant_id: str, ids: Iterable[UUID]) -> Generator[asyncio.Event]:
        """Follow commands that were just read: the event is set when any of them has changed."""
        some = asyncio.Event()
        with ExitStack() as watches:
            for one in ids:
                watches.enter_context(self.watch(tenant_id, one, just_written=True, some=some))
            yield some

    async def run(self) -> None:
        """Load what changed, for ever."""
        clock = asyncio.get_running_loop().time
        poll_at = clock() + self._poll_s
        polled: list[UUID] = []
        while True:
            if not polled:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(poll_at):
                        await self._some.wait()
            if clock() >= poll_at:  # however much was notified meanwhile: of others, perhaps
                polled = polled or list(self._watches)
                poll_at = clock() + self._poll_s
            self._some.clear()
            dirty, self._dirty = list(self._dirty), set()
            try:
                for start in range(0, len(dirty), LOAD_MAX):
                    await self._load(dirty[start : start + LOAD_MAX])
                await self._load(polled[-POLL_MAX:], polls=True)
                del polled[-POLL_MAX:]
            except AWAY as error:
                logger.warning("waiters wait for postgres: %r", error)
                self._dirty.update(dirty)
                await asyncio.sleep(self._poll_s)

    async def _load(self, ids: list[UUID], *, polls: bool = False) -> None:
        """Read commands for who waits for them.

        A poll reads none that has not ended for who waits for the end alone.
        """
        watches = [watch for one in ids for watch in self._watches.get(one, ())]
        if not watches:
            return
        tenants = sorted({watch.tenant_id for watch in watches})
        ends = [one for one in ids if polls and self._is_for_its_end(one)]
        async with tenant_transaction(self._engine, *tenants) as conn:
            found = {one.id: one for one in await commands.find_many(conn, ids, ends=ends)}
        for watch in watches:
            command = found.get(watch.command_id)
            if command is not None and command.tenant_id == watch.tenant_id:
                watch.put(command)


def announce(feed: CommandFeed, notifier: Notifier, change: Change) -> None:
    """Wake whoever waits for what a committed transaction changed, and count it."""
    moved = {"correlation_id": str(change.command.id), "attempt": change.command.attempt}
    moved |= log_ids(change.command.traceparent)
    logger.info(str(change.command.state), extra=moved)
    measures.count(change)
    feed.changed(change.woken)
    notifier.commands(change.woken)
    if change.outbox:
        notifier.outbox()
    if change.command.saga_id is not None:
        notifier.sagas()


async def until_final(watch: Subscription, *, wait_s: float) -> Command | None:
    """The command once it has ended, or None after the wait."""
    until = asyncio.get_running_loop().time() + wait_s
    while True:
        left_s = until - asyncio.get_running_loop().time()
        command = await watch.change(left_s)
        if command is None or command.final:
            return command


async def progress_events(
    engine: AsyncEngine, feed: CommandFeed, command: Command, *, after: int, heartbeat_s: float
) -> AsyncGenerator[Progress | Command | None]:
    """Everything an adapter says from a number on, then the final command.

    None stands for a heartbeat: nothing was reported for that long.
    """
    seq = after
    with feed.watch(command.tenant_id, command.id) as watch:
        while True:
            newest = await watch.change(heartbeat_s)
            if newest is None:
                yield None
                continue
            while newest.progress_seq > seq:
                async with tenant_transaction(engine, command.tenant_id) as conn:
                    found = await progress.after(conn, command.id, seq=seq)
                if not found:
                    break
                for event in found:
                    yield event
                seq = found[-1].seq
            if newest.final:
                yield newest
                return

"""One claimed attempt: from the claim's answer by its adapter to the outcome that is reported."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from adapters import claims
from adapters.claims import DRAINED, NOT_KEPT, OVER, drained, spoken, without
from adapters.contract import AdapterCall, Failure, Outcome, Result
from adapters.kinds import Adapters
from app.traces.tracing import Tracing
from worker import metrics
from worker.leases import Lease, Leases
from worker.reports import Reporter
from worker.spans import asking

logger = logging.getLogger(__name__)

LAST_WORD_S: Final = 900.0
"""How long an outcome is said while the app is away; the work was done for it."""
PROGRESS_EVERY_S: Final = 0.5


@dataclass(slots=True, kw_only=True)
class Run:
    """A call that runs here; also the report that its adapter is given."""

    call: AdapterCall
    lease: Lease
    reporter: Reporter
    run: str
    wish: asyncio.Event = field(default_factory=asyncio.Event)
    drained: bool = False
    lost: bool = False
    more: bool = False
    saying: "asyncio.Task[None] | None" = None
    elsewhere: dict[str, Any] | None = None
    telling: "asyncio.Task[None] | None" = None

    @property
    def cancel_requested(self) -> bool:
        """Whether it is to end."""
        return self.wish.is_set()

    async def until_cancelled(self) -> None:
        """Return once it is to end."""
        await self.wish.wait()

    async def progress(
        self, done: float | None = None, total: float | None = None, message: str | None = None
    ) -> None:
        """Say how far it is; at most twice a second, and the last word is not lost."""
        self.lease.progress = claims.progress(done, total, message)
        self.more = True
        if self.saying is None or self.saying.done():
            self.saying = asyncio.create_task(self._say())

    async def _say(self) -> None:
        while self.more:
            self.more = False
            # Once posted it is said before the outcome, though nobody waits for its answer then.
            answer = await asyncio.shield(self.reporter.post(self.lease.item))
            if answer["status"] < 300:  # noqa: PLR2004
                self.lease.renewed()
            if answer.get("cancel_requested"):
                self.wish.set()
            await asyncio.sleep(PROGRESS_EVERY_S)

    async def tell_run(self, name: str, status: str, link: str) -> None:
        """Tell of a run elsewhere that does the work; what a newer word overtakes is not said."""
        self.elsewhere = claims.run_elsewhere(name, status, link, mine=self.run)
        if self.telling is None or self.telling.done():
            self.telling = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        while self.elsewhere is not None:
            about = {"op": "run", "correlation_id": self.call.command_id}
            word = about | {"attempt": self.call.attempt} | self.elsewhere
            self.elsewhere = None
            await self.reporter.say(word)

    def quiet(self) -> None:
        """No more progress: the last word of it that was not said goes before the outcome."""
        if self.saying is not None:
            self.saying.cancel()
        if self.more and not self.lost:
            self.more = False
            self.reporter.post(self.lease.item)


class Calls:
    """The calls that run in this worker."""

    def __init__(
        self,
        adapters: Adapters,
        reporter: Reporter,
        *,
        result_bytes_max: int,
        tracing: Tracing | None = None,
    ) -> None:
        self._adapters = adapters
        self._reporter = reporter
        self._result_bytes_max = result_bytes_max
        self._tracing = tracing
        self._leases: Leases | None = None
        self._runs: dict[str, Run] = {}
        self.draining = False

    def keep_leases(self, leases: Leases) -> None:
        """By whom they are renewed."""
        self._leases = leases

    async def work(self, granted: Mapping[str, Any], run: str, *, late: bool) -> None:
        """Do a granted attempt's work and report what came of it."""
        made = self._run(granted, run)
        if isinstance(made, Failure):
            await self._report_bare(granted, made)
            return
        assert self._leases is not None, "the worker gives them at its start"
        key = made.call.command_id
        self._runs[key] = made
        self._leases.add(made.lease)
        metrics.RUNNING.set(len(self._runs))
        try:
            began = time.monotonic()
            outcome = claims.too_late() if late else await self._outcome(made)
            metrics.CALL_S.observe(time.monotonic() - began)
            made.quiet()
            if made.lost:
                metrics.CALLS.labels("lost").inc()
                logger.warning("an attempt is not ours any more", extra={"correlation_id": key})
                return
            await self._report(made, outcome)
        finally:
            made.quiet()
            del self._runs[key]
            self._leases.remove(key)
            metrics.RUNNING.set(len(self._runs))

    def cancel(self, correlation_id: str, run: str | None = None) -> None:
        """Somebody wants a call to end; by its run where the message names one."""
        found = self._runs.get(correlation_id)
        if found is not None and run in {None, found.run}:
            found.wish.set()

    def lose(self, correlation_id: str) -> None:
        """The attempt is given up, or another's: stop the work, and say nothing."""
        found = self._runs.get(correlation_id)
        if found is not None:
            found.lost = True
            found.wish.set()

    def drain(self) -> None:
        """The grace is over: what runs is given back."""
        self.draining = True
        for one in self._runs.values():
            one.drained = not one.wish.is_set()
            one.wish.set()

    def _run(self, granted: Mapping[str, Any], run: str) -> Run | Failure:
        """A granted claim as its adapter takes it; or why it cannot be worked on here."""
        call = claims.call_of(granted)
        if isinstance(call, Failure):
            return call
        lease = Lease(
            correlation_id=call.command_id, attempt=call.attempt, lease_s=granted["lease_s"]
        )
        return Run(call=call, lease=lease, reporter=self._reporter, run=run)

    async def _outcome(self, made: Run) -> Outcome:
        if self.draining:  # claimed as the grace ended
            made.drained = True
            return Failure(code=DRAINED, message="The worker stopped.", retryable=True)
        if self._tracing is None:
            outcome = await self._adapters.run(made.call, made)
        else:
            with asking(self._tracing, made.call) as span:
                outcome = span.outcome = await self._adapters.run(span.call, made)
        return drained(made.call, outcome) if made.drained else outcome

    async def _report(self, made: Run, outcome: Outcome) -> None:
        call = made.call
        about = {"op": "result", "correlation_id": call.command_id, "attempt": call.attempt}
        report = about | spoken(outcome)
        size = len(orjson.dumps(report))
        if size > self._result_bytes_max:
            report, size = about | without(outcome, f"it has {size} bytes"), None
        answer = await self._say(report, size)
        if answer is not None and answer["status"] in NOT_KEPT:
            answer = await self._say(about | without(outcome, str(answer.get("detail"))), None)
        metrics.CALLS.labels(_how(outcome)).inc()
        if answer is None:
            logger.error("an outcome was not heard", extra={"correlation_id": call.command_id})
        elif answer["status"] in OVER:
            metrics.CALLS.labels("lost").inc()
            logger.warning(
                "an outcome came too late: %s",
                answer.get("detail"),
                extra={"correlation_id": call.command_id},
            )

    async def _report_bare(self, granted: Mapping[str, Any], outcome: Failure) -> None:
        """Of an attempt that no adapter had."""
        about = {name: granted[name] for name in ("correlation_id", "attempt")}
        await self._say({"op": "result"} | about | spoken(outcome), None)
        metrics.CALLS.labels("failed").inc()

    async def _say(self, report: dict[str, Any], size: int | None) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(LAST_WORD_S):
                return await self._reporter.say(report, size=size)
        except TimeoutError:
            return None


def _how(outcome: Outcome) -> str:
    if isinstance(outcome, Result):
        return "done"
    return "unknown" if outcome.outcome_unknown else "failed"

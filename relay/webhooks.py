"""Webhooks: takes what happened from the audit trail, and delivers it. Safe on many relays at once.

Two loops. One relay at a time reads the trail in its order, below the oldest open transaction, and
writes the deliveries with the position that it has reached: nothing is passed over, whoever is
killed when. Every relay leases deliveries, sends them, and records what became of each; a lease
that is over is another relay's. So a delivery is made at least once, in no promised order.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Final
from urllib.parse import urlsplit

import orjson
from sqlalchemy.ext.asyncio import AsyncEngine

from app import assets, metrics
from app.audit.store import events
from app.config import Settings
from app.postgres.engine import AWAY
from app.traces.context import Context, log_ids
from app.traces.otlp import CLIENT, Span
from app.traces.tracing import Tracing
from app.webhooks import payload, schedule
from app.webhooks.kind import FAILING, GONE, NO_EVENTS, PROBES, TERMINATED, VERIFICATION
from app.webhooks.signing import SealedByAnotherError, Sealer, signature
from app.webhooks.store import controls, deliveries, telling
from app.webhooks.store.deliveries import Leased
from relay import waits
from relay.posting import Answer, Poster, PostFailedError

logger = logging.getLogger(__name__)

ACTOR: Final = "relay:webhooks"
BACKOFF_S: Final = 1.0
CLEAN_S: Final = 60.0
CLEANED_MAX: Final = 10_000
LEASE_MORE_S: Final = 15.0
"""A lease lasts so much longer than an attempt may: its outcome is to be written, too."""
STOP_S: Final = 5.0
IDLE_XIDS: Final = 10_000
"""Where nobody is to be told, the position follows when it lies so far behind."""
ANSWER_BYTES: Final = {VERIFICATION: 16 << 10}
ANSWER_SHOWN: Final = 1000
"""Of the answer to a test, for its operator."""
TOO_LARGE, GONE_STATUS = 413, 410


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an attempt."""

    kind: str
    """`delivered`, or why not: a label of the metric."""
    status: int | None = None
    pause_s: float = 0
    """What a Retry-After header asks for."""
    detail: str | None = None
    body: bytes = b""


class Webhooks:
    """Tells and delivers for as long as `run` runs."""

    def __init__(
        self,
        engine: AsyncEngine,
        settings: Settings,
        *,
        random: Random,
        tracing: Tracing | None = None,
        delays_s: Sequence[float] = schedule.DELAYS_S,
        subscription_delays_s: Sequence[float] = schedule.SUBSCRIPTION_DELAYS_S,
    ) -> None:
        self._delays_s = {False: delays_s, True: subscription_delays_s}
        self._engine = engine
        self._settings = settings
        self._random = random
        self._tracing = tracing
        self._sealer = Sealer(settings.webhook_keys)
        self._poster = Poster(
            networks=settings.webhook_networks,
            ca_file=settings.webhook_ca_file,
            timeout_s=settings.webhook_timeout_s,
        )
        self._agent = f"mcp-broker/{assets.version()}"
        self._some = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()
        self._clean_at = float("-inf")

    async def run(self, stop: asyncio.Event) -> None:
        """Tell and deliver until asked to stop; what is under way has some seconds then."""
        stopping = asyncio.create_task(self._wake_on(stop))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._tell_until(stop))
                group.create_task(self._send_until(stop))
        finally:
            stopping.cancel()
            await self._end()

    async def _wake_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._some.set()

    async def _end(self) -> None:
        """Deliveries that do not end in time are another relay's when their lease is over."""
        if self._sending:
            _, left = await asyncio.wait(self._sending, timeout=STOP_S)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        self._poster.close()

    async def _tell_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            more = False
            try:
                more = await self.tell()
                await self._clean()
            except AWAY as error:
                logger.warning("webhooks wait for postgres: %r", error)
            except Exception:
                logger.exception("webhooks could not be taken from the trail")
            if not more:
                await waits.until(stop, self._settings.poll_s)

    async def tell(self) -> bool:
        """Write the deliveries of what happened since; whether there is more of it now."""
        async with self._engine.begin() as conn:
            if not await telling.try_turn(conn):
                return False
            place = await telling.place(conn)
            if place.at > place.open:
                # A dump that was put into another cluster: its numbers are not this one's.
                logger.warning("webhooks begin anew: the position is of another database")
                await telling.move(conn, xid=place.closed)
                await controls.skipped(conn, closed=place.closed)
                return False
            if place.first is None:
                if place.closed - place.at > IDLE_XIDS:
                    await telling.move(conn, xid=place.closed)
                return False
            since = max(place.at, min(place.first, place.closed))
            until = min(place.closed, since + telling.WINDOW)
            told = await telling.tell(conn, since=since, until=until, unused=place.open)
            if told or until - place.at > telling.STEP:
                await telling.move(conn, xid=until)
        if told:
            self._some.set()
        return until < place.closed

    async def _clean(self) -> None:
        if time.monotonic() < self._clean_at:
            return
        self._clean_at = time.monotonic() + CLEAN_S
        async with self._engine.begin() as conn:
            kept_s = self._settings.webhook_kept_s
            await deliveries.clean(conn, kept_s=kept_s, limit=CLEANED_MAX)
            ended = await controls.terminate(conn)
        if ended:
            self._some.set()

    async def _send_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._some.clear()
            taken: Sequence[Leased] = ()
            try:
                taken = await self._claim()
            except AWAY as error:
                logger.warning("deliveries wait for postgres: %r", error)
                await waits.until(stop, BACKOFF_S)
            except Exception:
                logger.exception("deliveries could not be leased")
                await waits.until(stop, BACKOFF_S)
            for one in taken:
                task = asyncio.create_task(self._send(one))
                self._sending.add(task)
                task.add_done_callback(self._sent)
            if not taken:
                await waits.until(self._some, self._settings.poll_s)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._some.set()

    async def _claim(self) -> Sequence[Leased]:
        room = self._settings.webhook_slots_max - len(self._sending)
        if room <= 0:
            return ()
        async with self._engine.begin() as conn:
            return await deliveries.claim(
                conn,
                limit=room,
                each=self._settings.webhook_slots_each_max,
                lease_s=self._settings.webhook_timeout_s + LEASE_MORE_S,
            )

    async def _send(self, one: Leased) -> None:
        """One attempt, and what became of it; what cannot be written is sent again."""
        began_ns = time.time_ns()
        try:
            outcome = await self._attempt(one)
            await self._record(one, outcome)
        except AWAY as error:
            logger.warning("what became of a delivery is not kept, postgres is away: %r", error)
        except Exception:
            logger.exception("a delivery failed", extra={"delivery_id": str(one.id)})
        else:
            self._trace(one, outcome, began_ns)

    async def _attempt(self, one: Leased) -> Outcome:
        try:
            secrets = [
                self._sealer.open(sealed, tenant_id=one.tenant_id, endpoint_id=one.endpoint_id)
                for sealed in (one.secret, one.secret_before)
                if sealed is not None
            ]
        except SealedByAnotherError:
            return Outcome(kind="unsealed", detail="no key of webhook_keys opens its secret")
        message, body = self._composed(one)
        at = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": self._agent,
            "webhook-id": message,
            "webhook-timestamp": str(at),
            "webhook-signature": signature(message, at, body, secrets),
        }
        if one.user_id is not None:
            headers["X-MCP-Subscription-Id"] = payload.subscription_id(one.endpoint_id)
        try:
            bytes_max = ANSWER_BYTES.get(one.kind, ANSWER_SHOWN if one.kind in PROBES else 0)
            answer = await self._poster.post(
                one.url, headers=headers, body=body, answer_bytes_max=bytes_max
            )
        except PostFailedError as error:
            return Outcome(kind=error.kind, detail=error.detail)
        return self._judged(one, answer)

    def _composed(self, one: Leased) -> tuple[str, bytes]:
        """The message's id, and its body."""
        subscription = one.user_id is not None
        message = payload.message_id(one.kind, one.id, one.event_id, subscription=subscription)
        if not subscription:
            return message, payload.operator_body(
                one.kind,
                at=one.occurred_at,
                data=one.data,
                tenant_id=one.tenant_id,
                message=message,
                public_url=self._settings.public_url,
                console=self._settings.webhook_links == "console",
                template=one.template,
            )
        cursor = payload.watermark(
            xid=one.xid,
            at=one.occurred_at,
            event_id=one.event_id,
            oldest_other=one.oldest_other,
            checked=one.now,
        )
        return message, payload.event_body(
            one.kind, event_id=one.event_id, at=one.occurred_at, data=one.data, cursor=cursor
        )

    def _judged(self, one: Leased, answer: Answer) -> Outcome:
        status = answer.status
        pause_s = schedule.retry_after_s(answer.retry_after, one.now)
        kind = "delivered"
        if status // 100 != 2:  # noqa: PLR2004 the class of success
            kind = f"http_{status // 100}xx" if 3 <= status // 100 <= 5 else "bad_answer"  # noqa: PLR2004
        elif one.kind == VERIFICATION and not echoed(answer.body, one.data["challenge"]):
            kind = "challenge_failed"
        return Outcome(kind=kind, status=status, pause_s=pause_s, body=answer.body)

    async def _record(self, one: Leased, outcome: Outcome) -> None:
        state, pause_s, reason = self._verdict(one, outcome)
        answer = None
        if one.kind in PROBES and one.user_id is None:
            answer = outcome.body.decode(errors="replace").replace("\0", "\ufffd")[:ANSWER_SHOWN]
        async with self._engine.begin() as conn:
            if not await deliveries.record(
                conn,
                one,
                state=state,
                pause_s=pause_s,
                status=outcome.status,
                error=self._said(one, outcome),
                answer=answer,
            ):
                return
            if one.kind == TERMINATED and state != "waiting":
                await controls.over(conn, one.endpoint_id)
            if one.kind not in NO_EVENTS:
                if outcome.kind == "delivered":
                    await deliveries.took(conn, one.endpoint_id)
                elif await deliveries.failed(
                    conn,
                    one.endpoint_id,
                    error=outcome.kind,
                    disable_after_s=self._settings.webhook_disable_after_s,
                ):
                    reason = reason or FAILING
            if reason is not None:
                reason = (
                    reason
                    if await deliveries.disable(conn, one.endpoint_id, reason=reason)
                    else None
                )
            if reason is not None:
                body = {"webhook": str(one.endpoint_id), "reason": reason}
                body |= {"host": urlsplit(one.url).hostname or ""}
                await events.append(
                    conn, tenant_id=one.tenant_id, kind="webhook.disabled", actor=ACTOR, body=body
                )
        self._count(one, outcome, state=state, disabled=reason)

    def _said(self, one: Leased, outcome: Outcome) -> str | None:
        """Why it failed; of what an MCP client chose the kind only, as it may be a look around."""
        if outcome.kind == "delivered":
            return None
        return outcome.kind if one.user_id is not None else outcome.detail or outcome.kind

    def _verdict(self, one: Leased, outcome: Outcome) -> tuple[str, float, str | None]:
        """The delivery's state, the pause before its next attempt, and why to disable if to."""
        if outcome.kind == "delivered":
            return "delivered", 0, None
        subscription = one.user_id is not None
        if one.kind in PROBES:
            return "abandoned", 0, None
        if outcome.status == GONE_STATUS:
            # To an MCP client it means this delivery only (SEP-3415).
            return "abandoned", 0, None if subscription else GONE
        if outcome.status == TOO_LARGE and subscription:
            return "abandoned", 0, None
        delay_s = schedule.delay_s(one.attempts + 1, self._delays_s[subscription], self._random)
        if delay_s is None:
            return "abandoned", 0, None
        return "waiting", max(delay_s, outcome.pause_s), None

    def _count(self, one: Leased, outcome: Outcome, *, state: str, disabled: str | None) -> None:
        metrics.WEBHOOK_ATTEMPTS.labels(outcome.kind).inc()
        said = {
            "webhook": str(one.endpoint_id),
            "delivery_id": str(one.id),
            "outcome": outcome.kind,
            "attempt": one.attempts + 1,
            **log_ids(one.traceparent),
        }
        if state == "abandoned" and one.kind not in PROBES:
            metrics.WEBHOOKS_ABANDONED.inc()
            logger.warning("a delivery was given up", extra=said)
        elif outcome.kind != "delivered":
            logger.info("a delivery was not taken", extra=said)
        if disabled is not None:
            metrics.WEBHOOKS_DISABLED.inc()
            logger.warning("a webhook was disabled", extra=said | {"reason": disabled})

    def _trace(self, one: Leased, outcome: Outcome, began_ns: int) -> None:
        front = Context.read(one.traceparent)
        if self._tracing is None or front is None or not front.sampled:
            return
        command_id = one.data.get("command_id")
        parent = front.command(command_id)
        failed = outcome.kind != "delivered"
        status = () if outcome.status is None else (("http.response.status_code", outcome.status),)
        self._tracing.record(
            Span(
                at=parent.of("webhook", one.id, one.attempts + 1),
                parent=parent.span_id,
                name=f"webhook {one.kind}",
                kind=CLIENT,
                start_ns=began_ns,
                end_ns=time.time_ns(),
                attributes=(
                    ("http.request.method", "POST"),
                    *status,
                    *((("error.type", outcome.kind),) if failed else ()),
                ),
                own=self._tracing.who(correlation_id=command_id, tenant_id=one.tenant_id),
                failed=failed,
            )
        )


def echoed(body: bytes, challenge: str) -> bool:
    """Whether an answer has the challenge that was sent; compared in constant time."""
    found: object = None
    with suppress(ValueError):
        found = orjson.loads(body)
    given = found.get("challenge") if isinstance(found, dict) else None
    return isinstance(given, str) and hmac.compare_digest(given.encode(), challenge.encode())

"""Accepting a call, whichever protocol brought it."""

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from typing import Any

from asyncpg.pool import PoolConnectionProxy

from app import metrics
from app.catalog.policy import Tool
from app.catalog.store import Tenant
from app.commands.state import State
from app.commands.store.holds import Hold
from app.commands.view import held_words
from app.contract import instant
from app.edges.parts import Parts, logger
from app.errors import HeldError, QueueFullError
from app.identity import Identity
from app.intake.batches import Write
from app.intake.call import Call
from app.intake.prepare import CallRequest
from app.intake.store import Written
from app.sagas import runs
from app.traces.context import link_command


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """An accepted call."""

    written: Written
    tool: Tool
    deduplicated: bool
    wait_s: float
    not_before: datetime | None = None
    hold: Hold | None = None
    """By which it waits, as far as is known where it was accepted."""

    @property
    def replayed(self) -> bool:
        """Whether the command was there before this call."""
        return not self.written.new


async def submit(
    broker: Parts, who: Identity, request: CallRequest, *, wait_s: float | None = None
) -> Accepted:
    """Accept a call: durable when this returns.

    Raises:
        BrokerError: as `Preparer.prepare`, `Queues.admit` and `IntakeBatcher.accept` say;
            nothing was written.
    """
    call, tool = await broker.preparer.prepare(who, request)
    if call.compensation is not None:
        # What could not be called could not undo anything either.
        undo = CallRequest(**call.compensation)
        await broker.preparer.prepare(who, undo)
    return await accept(broker, who, call, tool, wait_s=wait_s)


async def accept(
    broker: Parts,
    who: Identity,
    call: Call,
    tool: Tool,
    *,
    write: Write | None = None,
    wait_s: float | None = None,
) -> Accepted:
    """Accept a prepared call; with `write`, in a transaction that writes more than the call.

    Raises as `submit`.
    """
    began = time.monotonic()
    if call.saga_role == "step":
        write = _adhoc(broker, call)
    view = await broker.catalog.tenant(who.tenant_id)
    assert view is not None, "prepare knows the tenant"
    hold = await met_by(broker, call)
    try:
        _refuse(hold)
        await broker.queues.admit(view.tenant)
    except (HeldError, QueueFullError) as error:
        # Who repeats a call whose answer was lost must not be told that nothing was started.
        earlier = await broker.intake.earlier(call)
        if earlier is None:
            if isinstance(error, HeldError):
                await _audited(broker, who, call, hold_id=error.fields["hold_id"])
            raise
        written = earlier
    else:
        written = await (
            broker.intake.accept(call) if write is None else broker.intake.accept_with(call, write)
        )
    (metrics.ACCEPTED_NEW if written.new else metrics.ACCEPTED_AGAIN).inc()
    took_s = time.monotonic() - began
    how = "new" if written.new else "repeated"
    metrics.ACCEPT_S.observe(took_s, call.tool, call.method, how, trace=call.traceparent)
    if not written.new:
        link_command(written.traceparent, written.id)
    if logger.isEnabledFor(logging.INFO):
        logger.info(
            "accepted" if written.new else "found again",
            extra={
                "correlation_id": str(written.id),
                "tenant_id": who.tenant_id,
                "tool": call.tool,
                "method": call.method,
            },
        )
    bound_s = wait_bound_s(broker, tool, view.tenant)
    if wait_s is not None:
        bound_s = min(bound_s, wait_s)
    later = call.not_before
    if written.state is State.QUEUED:
        # Nobody waits for what starts after the wait, or when an operator says so.
        left_s = 0 if later is None else (later - datetime.now(UTC)).total_seconds()
        bound_s = 0 if hold is not None or left_s >= bound_s else bound_s
    return Accepted(
        written=written,
        tool=tool,
        deduplicated=not written.new and call.dedupe_key is not None,
        wait_s=bound_s,
        not_before=later,
        hold=hold,
    )


async def met_by(broker: Parts, call: Call) -> Hold | None:
    """The hold that a call meets; a step of a saga that is under way waits, and is not asked."""
    return await broker.holds.met_by(
        call.tenant_id,
        tool=call.tool,
        method=call.method,
        ordering_key=call.ordering_key,
        args=call.args,
    )


def _refuse(hold: Hold | None) -> None:
    """Refuse a call whose hold says so.

    Raises:
        HeldError
    """
    if hold is not None and hold.effect == "refuse":
        until = None if hold.until is None else instant(hold.until)
        said = held_words(hold.reason, until).removesuffix(".")
        raise HeldError(f"It is {said}. Nothing was started.", **held_fields(hold))


async def _audited(broker: Parts, who: Identity, call: Call, *, hold_id: str) -> None:
    """Have the refusal audited as others are: a user's first one by one, the rest counted."""
    request = CallRequest(tool=call.tool, method=call.method, args={})
    await broker.refusals.call(who, request, kind="call.held", reason=f"hold {hold_id}")


def held_fields(hold: Hold) -> dict[str, Any]:
    """What a machine may want to know of it."""
    fields: dict[str, Any] = {"hold_id": str(hold.id), "reason": hold.reason}
    if hold.until is not None:
        left_s = (hold.until - datetime.now(UTC)).total_seconds()
        fields |= {"until": instant(hold.until), "retry_after_s": max(1, ceil(left_s))}
    return fields


def wait_bound_s(broker: Parts, tool: Tool, tenant: Tenant) -> float:
    """How long a call of the tool waits for its outcome where it does not ask for less."""
    return tool.policy.inline_wait_s or tenant.inline_wait_s or broker.settings.inline_wait_s


def _adhoc(broker: Parts, call: Call) -> Write:
    async def write(conn: PoolConnectionProxy) -> Written | None:
        settings = broker.settings
        return await runs.add(
            conn, call, on_idle=settings.saga_on_idle, idle_timeout_s=settings.saga_idle_s
        )

    return write

"""Following a call for as long as its request waits: its progress, then its end.

The wait belongs to the request; the command goes on without it.
"""

from dataclasses import replace
from typing import Final
from uuid import UUID

import anyio
from mcp import types
from mcp.shared.exceptions import MCPError

from app.commands.store.commands import Command
from app.commands.watch import Subscription
from app.edges.calls import Accepted
from app.edges.commands import cancel, find
from app.edges.mcp.asking import page
from app.edges.mcp.calls import Context, meta
from app.edges.mcp.replies import (
    JustWritten,
    Standing,
    accepted_reply,
    outcome_reply,
    protocol_error,
)
from app.edges.mcp.words import approval_of, line_of
from app.edges.parts import Parts
from app.identity import Identity

SILENCE_S: Final = 0.5
"""Progress is coalesced to at most one notification in this time."""

PERCENT_MAX: Final = 99.0
"""The highest progress that is taken from an adapter's percent; what is above is for heartbeats."""


async def wait(
    broker: Parts, ctx: Context, who: Identity, accepted: Accepted
) -> types.CallToolResult:
    """Stream progress until the end or the end of the wait."""
    ended = newest = None
    if accepted.wait_s > 0:
        ended, newest = await _watched(broker, ctx, who, accepted)
    if ended is None:
        stands = await _standing(broker, who, accepted, newest)
        if isinstance(stands, JustWritten) or not stands.final:
            return accepted_reply(stands, accepted, page=_page(broker, who, stands))
        ended = stands  # before it was called again
    return await _told(broker, ended, accepted)


def _page(broker: Parts, who: Identity, stands: Standing) -> str | None:
    """Where the caller decides about a call that waits for an approval of theirs."""
    url = broker.settings.approvals_url
    theirs = isinstance(stands, Command) and page.offered(stands, who)
    return f"{url}/{stands.id}" if url is not None and theirs else None


async def soon(
    broker: Parts, ctx: Context, who: Identity, accepted: Accepted
) -> types.CallToolResult | None:
    """The outcome of a call that may be a task and ends before it is made one.

    What may have to be asked of a person is a task at once.
    """
    policy = accepted.tool.policy
    after_s = policy.task_after_s
    if after_s is None:
        after_s = broker.settings.task_after_s
    wait_s = min(after_s, accepted.wait_s)
    if policy.task == "required" or policy.approval.by != "none" or wait_s <= 0:
        return None
    ended, _ = await _watched(broker, ctx, who, replace(accepted, wait_s=wait_s))
    return None if ended is None else await _told(broker, ended, accepted)


async def _told(broker: Parts, ended: Command, accepted: Accepted) -> types.CallToolResult:
    """How it ended.

    Raises:
        MCPError: its adapter ended it so.
    """
    broken = protocol_error(ended)
    if broken is not None:
        raise MCPError.from_error_data(broken)
    return await outcome_reply(broker, ended, accepted)


async def _watched(
    broker: Parts, ctx: Context, who: Identity, accepted: Accepted
) -> tuple[Command | None, Command | None]:
    """The command's end, if the wait saw it, and the newest that the wait saw."""
    # Who asked for progress is shown at once where a call stands, so that is read.
    just_written = accepted.written.new and not hears(ctx) and not page.tells(ctx)
    try:
        with broker.feed.watch(
            who.tenant_id, accepted.written.id, just_written=just_written
        ) as watch:
            return await _follow(broker, ctx, watch, accepted.wait_s), watch.newest
    except anyio.get_cancelled_exc_class():
        if accepted.tool.policy.on_disconnect == "cancel":
            with anyio.CancelScope(shield=True):
                await cancel(broker, who, accepted.written.id, reason="The caller gave up.")
        raise


async def _standing(
    broker: Parts, who: Identity, accepted: Accepted, newest: Command | None
) -> Standing:
    """Where a call stands whose end was not seen, by what is known here; else it is read."""
    written = accepted.written
    # A call that may wait for a person, or for its time, is told so, and that is read.
    told = accepted.tool.policy.approval.by == "none" and accepted.not_before is None
    told = told and accepted.hold is None
    if newest is None and written.new and told:
        return JustWritten(id=written.id, deadline_at=written.deadline_at)
    return newest or await find(broker, who, written.id)


async def ended(
    broker: Parts, ctx: Context, who: Identity, command_id: UUID, *, wait_s: float
) -> Command | None:
    """The end of a command that was accepted before, with its progress; None after the wait."""
    end_only = not (hears(ctx) or page.tells(ctx))
    with broker.feed.watch(who.tenant_id, command_id, end_only=end_only) as watch:
        return await _follow(broker, ctx, watch, wait_s)


def hears(ctx: Context) -> bool:
    """Whether the client of a request asked for progress."""
    return "progressToken" in meta(ctx)


async def _follow(
    broker: Parts, ctx: Context, watch: Subscription, wait_s: float
) -> Command | None:
    """Report progress as it comes; a heartbeat where none does. Numbers strictly increase."""
    now = anyio.current_time()
    until, reported_at = now + wait_s, now - SILENCE_S
    reported: float | None = None
    newest: Command | None = None
    pending, asked, reported_seq = False, False, 0
    while now < until:
        due = reported_at + (SILENCE_S if pending else broker.settings.heartbeat_s)
        if now >= due:
            reported = above(reported, newest)
            await ctx.session.report_progress(reported, 100.0, message_of(newest))
            reported_at, pending = now, False
            reported_seq = 0 if newest is None else newest.progress_seq
        else:
            change = await watch.change(min(due, until) - now)
            if change is not None:
                if asked and not change.awaits_approval:
                    await page.completed(ctx, change)
                asked = change.awaits_approval
            if change is not None and change.final:
                if change.progress_seq > reported_seq:
                    # The last report was held back, or came with the end: it is still sent.
                    reported = above(reported, change)
                    await ctx.session.report_progress(reported, 100.0, message_of(change))
                return change
            if change is not None:
                newest, pending = change, True
        now = anyio.current_time()
    return None


def above(reported: float | None, command: Command | None) -> float:
    """The next number: the adapter's percent; where it gives none, or no more, a little more."""
    percent = min(PERCENT_MAX, 0.0 if command is None else command.percent or 0.0)
    if reported is None:
        return percent
    return max(reported + (100 - reported) / 1000, percent)


def message_of(command: Command | None) -> str | None:
    """A short line for a person: stage and message."""
    if command is None:
        return "still running"
    return line_of(approval_of(command), command.stage, command.message) or str(command.state)

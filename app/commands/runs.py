"""What an executor says of a run that it has started elsewhere, such as a controller's job.

The run itself claims and reports, as any adapter. This is the word of whoever started it, and sees
how it fares: that it waits its turn, that it could not be started, that it is over. A run that is
over and has said its own last word is nothing new; one that has not ends its attempt here.
"""

from random import Random

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.catalog.policy import ToolPolicy
from app.commands.attempts import Change, end, lose, redeliver, retry
from app.commands.bound import locked, owner
from app.commands.report import Answer, Report
from app.commands.state import Event, State
from app.commands.store import moves
from app.commands.store.commands import Command
from app.errors import UnavailableError
from app.postgres.engine import tenant_transaction


async def heard_of(
    engine: AsyncEngine, report: Report, *, policy: ToolPolicy, lease_s: float, random: Random
) -> tuple[Answer, Change | None]:
    """Take a word about a run; of one that is not the attempt's nothing follows.

    While nobody has claimed the attempt it is not sent again for `lease_s`. With an error, the run
    is over: its attempt ends by it, unless the run has ended it itself.

    Raises:
        NotFoundError: no such command of the adapter's tenants and tools.
        UnavailableError: the attempt's publication is not recorded yet; say it again.
    """
    tenant_id = await owner(engine, report.adapter, report.command_id)
    async with tenant_transaction(engine, tenant_id) as conn:
        command = await locked(conn, report.adapter, report.command_id)
        counts = command.attempt == report.attempt and _is_its_run(command, report)
        change = None
        if counts:
            await moves.see_run(
                conn,
                command,
                run={
                    "attempt": command.attempt,
                    "name": report.run,
                    "status": report.status,
                    "link": report.link,
                    "log": report.log,
                },
                lease_s=lease_s,
            )
            if report.error is not None and not command.final:
                change = await _over(conn, command, report, policy=policy, random=random)
            else:
                change = Change(command=command, woken=(command.id,))
        now = command if change is None else change.command
        body = {"ok": True, "counts": counts, "state": str(now.state)}
    return Answer(status=200, body=body), change


def _is_its_run(command: Command, report: Report) -> bool:
    """Whether a claim was this run's; of an unclaimed attempt, whether no later run is known."""
    known = command.run
    if report.error is None and known is not None and known["name"] == report.run:
        return True  # nothing but its status follows
    if command.adapter is not None:
        names = (report.run, *report.parts)
        return any(f"{command.adapter}:".startswith(f"{name}:") for name in names)
    if command.final or known is None or known["attempt"] != command.attempt:
        return True
    return known["name"] == report.run or report.error is None


async def _over(
    conn: AsyncConnection, command: Command, report: Report, *, policy: ToolPolicy, random: Random
) -> Change:
    """End the attempt of a run that is over and has said no last word."""
    error = report.error
    assert error is not None
    actor = f"adapter:{report.adapter.client_id}"
    again = bool(error.get("retryable", True))
    if command.cancel_target is not None:
        event = Event.CANCEL if command.cancel_target == State.CANCELLED else Event.EXPIRE
        return await end(
            conn, command, policy=policy, event=event, actor=actor, error=error, lost=True
        )
    if command.state is State.RUNNING:
        if again:
            return await lose(conn, command, policy=policy, actor=actor, error=error, random=random)
        return await end(
            conn, command, policy=policy, event=Event.EXHAUST, actor=actor, error=error, lost=True
        )
    if report.again_after_s is not None:
        # Nothing was begun, so the attempt is not used up: it is sent again as it is.
        if command.state is State.QUEUED:
            raise UnavailableError("The attempt is being published; say it again.")
        return await redeliver(
            conn,
            command,
            actor=actor,
            reason=str(error.get("code")),
            error=error,
            pause_s=report.again_after_s,
        )
    if again and command.attempt < command.attempts_max:
        return await retry(
            conn,
            command,
            policy=policy,
            actor=actor,
            reason=str(error.get("code")),
            error=error,
            random=random,
        )
    return await end(conn, command, policy=policy, event=Event.EXHAUST, actor=actor, error=error)

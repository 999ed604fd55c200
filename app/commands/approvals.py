"""Who may let a waiting call go: the one place that judges a decision, however it comes.

A call keeps what its tool's policy said when it was accepted, so a change of the catalog changes no
call that waits. A person's question (MCP), the operator's routes, the terminal and a saga's steps
all ask here, with the command locked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, Self

from app.catalog.policy import ToolPolicy
from app.commands.store.commands import Command
from app.contract import instant
from app.identity import Identity

OPERATOR: Final = "an operator's approval"
"""Whom a call waits for whose tool says no more."""
EXPIRED: Final = "no decision in time"
"""Why a call was denied that nobody decided about."""
KEPT: Final = ("by", "approvers", "not_own", "quorum", "escalate_to", "policy", "why")
Route = Literal["asked", "named"]
"""asked: the person behind the client, by a question; named: anybody who names the command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """What a call needs to go: `commands.approval_rule`."""

    by: str = "operator"
    approvers: tuple[str, ...] = ()
    not_own: bool = False
    quorum: int = 1
    escalate_to: tuple[str, ...] = ()
    policy: str | None = None
    """The digest of the catalog's entry that says so."""
    why: str | None = None
    """What its rule came to, for operators; in events only."""

    @classmethod
    def of(cls, command: Command) -> Self:
        """Of a command; one of before this column needs an operator."""
        return cls.read(command.approval_rule or {})

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Self:
        """As the column has it; a later release may have written more."""
        kept: dict[str, Any] = {name: row[name] for name in KEPT if name in row}
        kept |= {name: tuple(kept[name]) for name in ("approvers", "escalate_to") if name in kept}
        return cls(**kept)

    @classmethod
    def by_policy(
        cls, policy: ToolPolicy, *, by: str, digest: bytes | None, why: str | None = None
    ) -> Self:
        """By a tool's policy; who is asked may also be a saga's word."""
        said = policy.approval
        return cls(
            by=by,
            approvers=said.approvers,
            not_own=said.not_own,
            quorum=said.quorum,
            escalate_to=said.escalate_to,
            policy=None if digest is None else digest.hex(),
            why=why,
        )

    def row(self) -> dict[str, Any]:
        """As the column and its event have it."""
        return {name: value for name in KEPT if (value := getattr(self, name)) is not None}

    def counts(self, user_id: str, groups: frozenset[str], *, owner: str) -> bool:
        """Whether a yes counts of the person behind the client that made the call."""
        named = not self.approvers or not groups.isdisjoint(self.approvers)
        return named and not (self.not_own and user_id == owner)


def refusal(
    command: Command, who: Identity, *, approve: bool, route: Route, operator: bool
) -> str | None:
    """Why somebody's decision about a waiting call does not count; None where it does."""
    needed, own = Needed.of(command), who.user_id == command.user_id
    if not approve and route == "asked":
        return None  # one's own call can be given up
    if not may_decide(command, who, operator=operator or route == "asked"):
        return f"The decision about command {command.id} is not yours: it {waits_for(command)}."
    if approve and needed.not_own and own:
        return f"Command {command.id} is your own call, and its tool has others approve it."
    return None


def may_decide(command: Command, who: Identity, *, operator: bool) -> bool:
    """Whether somebody is one of those who may decide about a call now."""
    needed = Needed.of(command)
    groups = set(needed.approvers)
    if command.escalated_at is not None:
        groups |= set(needed.escalate_to)
    return not groups.isdisjoint(who.groups) or (operator and not needed.approvers)


def route_of(command: Command, who: Identity) -> Route:
    """By which somebody decides who has signed in: a call that asks its person asks its caller."""
    own = command.tenant_id == who.tenant_id and command.user_id == who.user_id
    return "asked" if own and Needed.of(command).by == "ask" else "named"


def has_approved(command: Command, user_id: str) -> bool:
    """Whether somebody's yes is counted already."""
    return any(one["user"] == user_id for one in command.approvals or ())


def missing(command: Command) -> int:
    """How many persons must approve yet."""
    return max(0, Needed.of(command).quorum - len(command.approvals or ()))


def waits_for(command: Command) -> str:
    """Whom a waiting call waits for, in words."""
    needed = Needed.of(command)
    if needed.quorum == 1 and not (needed.approvers or needed.not_own or needed.escalate_to):
        said = OPERATOR
    else:
        escalated = command.escalated_at is not None
        said = whom(needed, missing(command), more=bool(command.approvals), escalated=escalated)
    until = command.approval_until
    return f"waits for {said}" + ("" if until is None else f", until {instant(until)}")


def whom(needed: Needed, count: int, *, more: bool, escalated: bool = False) -> str:
    """So many of those who may decide, in words."""
    groups = [*needed.approvers, *(needed.escalate_to if escalated else ())]
    named = f"group{'s' if len(groups) > 1 else ''} {' or '.join(groups)}"
    if not needed.approvers:
        named = f"the operators or {named}" if groups else "the operators"
    said = f"{count}{' more' if more else ''} of {named}"
    return f"{said}, not the caller" if needed.not_own else said


def shown(command: Command) -> dict[str, Any] | None:
    """What of a call's approval its views show; None where it never waited for one."""
    if command.approval is None or command.approval_rule is None:
        return None
    needed = Needed.of(command)
    told: dict[str, Any] = {
        "state": command.approval,
        "approvers": list(needed.approvers) or None,
        "not_own": needed.not_own or None,
        "quorum": needed.quorum,
        "missing": missing(command) if command.awaits_approval else None,
        "approved_by": [
            {"user": one["user"], "at": instant(datetime.fromisoformat(one["at"]))}
            for one in command.approvals or ()
        ],
        "until": None if command.approval_until is None else instant(command.approval_until),
        "escalate_to": list(needed.escalate_to) or None,
        "escalated_at": None if command.escalated_at is None else instant(command.escalated_at),
    }
    return {name: value for name, value in told.items() if value is not None}

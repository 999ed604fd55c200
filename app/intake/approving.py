"""Whether a call has to wait for persons, by its tool's policy and its arguments."""

from dataclasses import dataclass
from typing import Any, Final, Literal

from app.catalog.cache import Compiled
from app.catalog.policy import ToolPolicy
from app.catalog.rules import Asked, UnevaluableError
from app.commands.approvals import Needed
from app.identity import Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Approving:
    """How a call begins with regard to its approval."""

    approval: Literal["pending", "approved"] | None = None
    approval_rule: dict[str, Any] | None = None
    own_yes: bool | None = None
    """Whether its caller has approved it, and that counts."""
    approval_expires_s: float | None = None
    approval_escalate_s: float | None = None

    def of_call(self) -> dict[str, Any]:
        """As a call's fields, by the same names."""
        return {name: getattr(self, name) for name in self.__slots__}


AT_ONCE: Final = Approving()


def approving(
    found: Compiled | None,
    asked: Asked | None,
    *,
    who: Identity | None = None,
    yes: bool = False,
    step: str = "none",
) -> Approving:
    """Whether a call waits, and for whom; `step` is what a saga's definition says.

    `yes` is the caller's own, which counts where the policy asks the caller, who may decide.
    """
    policy = ToolPolicy() if found is None else found.tool.policy
    said = policy.approval
    waits, why = said.by != "none", None
    if waits and found is not None and found.asks_when is not None:
        assert asked is not None, "a rule is about a call"
        waits, why = _holds(found, asked)
    if not waits and step == "none":
        return AT_ONCE
    words = {step} | ({said.by} if waits else set())
    by = "operator" if "operator" in words else "ask"
    digest = None if found is None else found.tool.digest
    if waits:
        needed = Needed.by_policy(policy, by=by, digest=digest, why=why)
    else:
        needed = Needed(by=by, policy=None if digest is None else digest.hex())
    own = yes and by == "ask" and who is not None
    own = own and who is not None and needed.counts(who.user_id, who.groups, owner=who.user_id)
    return Approving(
        approval="approved" if own and needed.quorum == 1 else "pending",
        approval_rule=needed.row(),
        own_yes=own or None,
        approval_expires_s=said.expires_s if waits else None,
        approval_escalate_s=said.escalate_s if waits else None,
    )


def _holds(found: Compiled, asked: Asked) -> tuple[bool, str]:
    """Whether the rule asks for an approval, and what is said of it: in doubt, it does."""
    assert found.asks_when is not None
    rule = found.asks_when
    try:
        return rule.holds(asked), f"when {rule.text}"
    except UnevaluableError as error:
        return True, f"when {rule.text}: cannot be evaluated: {error}"

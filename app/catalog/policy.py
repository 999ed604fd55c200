"""Who may call what, and how a tool is to be treated; pure decisions over catalog and grants."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.catalog.adapter import ToolAdapter
from app.catalog.approval import NOBODY, Approval, names, read
from app.catalog.ordering import derived
from app.catalog.redaction import PERSONAL, hides
from app.catalog.rules import UnevaluableError
from app.identity import Identity, matches, matches_path

NAME_MAX: Final = 64
"""Characters of a tool's name on the MCP wire."""
APPROVE: Final = "approve"
"""The key of the question whether a call is allowed."""


class Ordering(StrEnum):
    """What holds the next command of an ordering key back."""

    COMPLETION = "completion"  # until the one before it has ended
    DELIVERY = "delivery"  # until the one before it is in Kafka


class Dedupe(StrEnum):
    """When two identical calls without a key are one command."""

    IN_FLIGHT = "in_flight"
    WINDOW = "window"
    OFF = "off"


class Retry(BaseModel):
    """How often an attempt is tried again, and how long the pause is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempts_max: int = Field(default=1, ge=1, le=100)
    backoff_s: float = Field(default=1, gt=0)
    backoff_max_s: float = Field(default=300, gt=0)
    jitter: float = Field(default=0.5, ge=0, le=1, description="Share of the pause that is random.")
    on_error: bool = Field(
        default=True, description="Also after an error result, not only a lost lease."
    )

    def pause_s(self, attempt: int, random: Random) -> float:
        """Seconds before the attempt after `attempt`: exponential, capped, jittered downwards."""
        assert attempt >= 1
        whole = min(self.backoff_max_s, self.backoff_s * 2.0 ** min(attempt - 1, 60))
        return whole * (1 - self.jitter * random.random())


class Question(BaseModel):
    """What the person behind the client is asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = Field(pattern="^[a-z][a-z0-9_]{0,63}$", description="Its name on the wire.")
    message: str = Field(min_length=1, max_length=500)
    arguments: tuple[str, ...] = Field(min_length=1, max_length=10)


class ToolPolicy(BaseModel):
    """What the catalog's reviewed file says of a tool beyond its schemas."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    idempotent: bool = Field(default=False, description="A lost attempt may simply be made again.")
    retry: Retry = Retry()
    dedupe: Dedupe = Dedupe.IN_FLIGHT
    dedupe_window_s: float = Field(
        default=60, gt=0, description="From a success on, with `dedupe: window`."
    )
    ordering: Ordering = Ordering.COMPLETION
    ordering_key: Annotated[tuple[str, ...], BeforeValidator(names)] = Field(
        default=(),
        max_length=10,
        description="Arguments whose values are the ordering key where the call names none.",
    )
    ordering_scope: Literal["tool", "method"] = Field(
        default="tool",
        description="tool: its methods share the key of the same values; method: each has its own.",
    )
    args: Literal["inline", "by_reference"] = "inline"
    on_disconnect: Literal["continue", "cancel"] = "continue"
    on_unknown: Literal["block", "release"] = "block"
    approval: Annotated[Approval, BeforeValidator(read)] = NOBODY
    asks: tuple[Question, ...] = Field(
        default=(),
        max_length=10,
        description="Arguments that the person behind the client gives, where the call lacks them"
        " and the client can ask: one question after another, before the call is accepted.",
    )
    task: Literal["optional", "required", "forbidden"] = "optional"
    task_after_s: float | None = Field(
        default=None,
        ge=0,
        description="How long a call waits for its end before it is answered with a task.",
    )
    inline_wait_s: float | None = Field(default=None, gt=0)
    deadline_s: float | None = Field(default=None, gt=0)
    max_runtime_s: float = Field(
        default=6 * 3600, gt=0, description="The hard stop, from the claim."
    )
    lease_s: float | None = Field(default=None, gt=0)
    priority: Literal["low", "normal", "high", "critical"] = "normal"
    on_misfit: Literal["flag", "refuse"] = Field(
        default="flag",
        description="A result that does not fit the output schema: clients get it in a shape of the"
        " broker's own, and its adapter is told; or it is refused to the adapter (422).",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One line of who may call what: a pattern over `tool/method`, `*` within it."""

    subject_kind: str
    subject: str
    pattern: str
    effect: str
    when: str = ""
    """Of which calls it speaks, in CEL; empty: of each."""


Rules = frozenset[tuple[str, str]]
"""Pattern and effect of each grant that applies to somebody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool as the catalog has it."""

    tool: str
    method: str
    name: str
    title: str
    description: str
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any] | None
    annotations: Mapping[str, Any]
    policy: ToolPolicy
    digest: bytes
    adapter: ToolAdapter | None = None
    """None: a playbook of EDA's that is named after the tool."""

    @property
    def path(self) -> str:
        """What grants match: `tool/method`."""
        return f"{self.tool}/{self.method}"

    @property
    def topic(self) -> str | None:
        """Where its executor reads commands; None: mcp.commands."""
        return None if self.adapter is None else self.adapter.topic

    def key_of(self, args: Mapping[str, Any], *, hidden: bool) -> str | None:
        """The ordering key of a call that names none: by the arguments that the policy names."""
        space = self.tool if self.policy.ordering_scope == "tool" else self.path
        named, schema = self.policy.ordering_key, self.input_schema
        return derived(space, named, args, schema, hidden=hidden)

    @property
    def read_only(self) -> bool:
        """Whether the tool says that it changes nothing."""
        return bool(self.annotations.get("readOnlyHint", False))


def hides_key(policy: ToolPolicy, schema: Mapping[str, Any]) -> bool:
    """Whether an ordering key may hold what is a person's, or not for Kafka.

    Also what is sensitive: `catalog apply` refuses that, and an older catalog may have it.
    """
    named = policy.ordering_key
    by_reference = bool(named) and policy.args == "by_reference"
    return by_reference or any(hides(schema, [name], PERSONAL) for name in named)


def wire_name(tool: str, method: str) -> str:
    """The default name of a tool on the MCP wire."""
    return f"{tool}_{method}" if method else tool


def applies(grant: Grant, identity: Identity) -> bool:
    """Whether a grant of the identity's tenant speaks of this identity."""
    match grant.subject_kind:
        case "tenant":
            return True
        case "user":
            return matches(grant.subject, identity.user_id)
        case "group":
            return grant.subject in identity.groups
        case _:
            return False


def rules_of(grants: Iterable[Grant], identity: Identity) -> Rules:
    """What the grants say of this identity; whoever they say the same of may call the same.

    Before a call is known: a grant that allows some calls shows the tool, and one that denies some
    does not hide it.
    """
    return frozenset(
        (one.pattern, one.effect)
        for one in grants
        if applies(one, identity) and not (one.when and one.effect == "deny")
    )


def permits(path: str, rules: Iterable[tuple[str, str]]) -> bool:
    """Whether `tool/method` may be called: some rule allows it and none denies it."""
    found = False
    for pattern, effect in rules:
        if matches_path(pattern, path):
            if effect == "deny":
                return False
            found = True
    return found


def allowed(path: str, grants: Iterable[Grant], identity: Identity) -> bool:
    """Whether the identity may call `tool/method`, or some calls of it."""
    applying = (
        (one.pattern, one.effect)
        for one in grants
        if applies(one, identity) and not (one.when and one.effect == "deny")
    )
    return permits(path, applying)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What the grants with a condition say of one call."""

    allowed: bool
    reason: str
    """Why, for operators."""


def ruling(
    path: str, grants: Iterable[Grant], identity: Identity, holds: Callable[[str], bool]
) -> Ruling | None:
    """Whether `allowed` calls of `tool/method` include this one; None where no condition is asked.

    A condition that cannot be evaluated denies: as an allowance it allows nothing, and as a denial
    it denies.
    """
    said: list[str] = []
    allows: str | None = None
    for one in grants:
        if not (applies(one, identity) and matches_path(one.pattern, path)):
            continue
        if not one.when:
            assert one.effect == "allow", "`allowed` was asked before"
            allows = allows or f"a grant of {one.pattern}"
            continue
        named = f"{one.effect} {one.pattern} when {one.when}"
        try:
            true = holds(one.when)
        except UnevaluableError as error:
            said.append(f"{named}: cannot be evaluated: {error}")
            true = one.effect == "deny"
        else:
            said.append(f"{named}: {str(true).lower()}")
        if true and one.effect == "deny":
            return Ruling(allowed=False, reason=said[-1])
        if true:
            allows = named
    if not said:
        return None
    return Ruling(allowed=allows is not None, reason=allows or "; ".join(said))

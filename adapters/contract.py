"""What an executor and the kinds of adapters say to each other: a call, its reports, its outcome.

The executor (the worker, or EDA's action) has claimed the call, says its progress and reports its
outcome; a kind only works. Nothing here knows of the broker, a queue or a database.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol

from adapters.targets import Target

CANCELLED: Final = "cancelled"
DEADLINE_EXCEEDED: Final = "deadline_exceeded"
ADAPTER_FAILED: Final = "adapter_failed"
"""A mistake of the adapter's own."""
MISCONFIGURED: Final = "misconfigured"
"""The catalog's entry or the target cannot be worked with; nothing was done."""
INVALID_ARGUMENTS: Final = "invalid_arguments"
"""The call's arguments cannot be given to the target; nothing was done."""
CREDENTIAL_UNAVAILABLE: Final = "credential_unavailable"
TARGET_CHANGED: Final = "target_changed"
"""What the target says of the tool is not what was reviewed; nothing was done."""
TARGET_UNAVAILABLE: Final = "target_unavailable"
"""It could not be reached; nothing was done."""
TARGET_LOST: Final = "target_lost"
"""It went away, or did not answer, after the call was sent."""
TARGET_BUSY: Final = "target_busy"
"""It says that it does not take the call now."""
TARGET_REFUSED: Final = "target_refused"
"""It answered that it will not do this."""
TARGET_FAILED: Final = "target_failed"
"""It answered that it failed."""
RESULT_TOO_LARGE: Final = "result_too_large"
RESULT_UNREADABLE: Final = "result_unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCall:
    """One attempt at a call, as its claim was answered."""

    command_id: str
    tenant: str
    tool: str
    method: str
    args: Mapping[str, Any]
    target: Target
    mapping: Mapping[str, Any]
    """The tool's `adapter:` in the catalog, less `kind`, `target` and `runs_on`."""
    attempt: int = 1
    idempotency_key: str
    """The same for each attempt of one command, and no other's."""
    idempotent: bool = False
    """The tool's policy: an attempt of which nothing is known may be made again."""
    deadline: float | None = None
    """In the event loop's time (`loop.time()`): when the work must have ended."""
    traceparent: str | None = None
    user: str | None = None

    @property
    def repeatable(self) -> bool:
        """Whether an attempt with an unknown outcome does no harm when it is made again."""
        return self.idempotent or self.target.takes_key

    def remaining_s(self, at_most: float) -> float:
        """Seconds that a step of the work may take; 0 where the deadline is over."""
        if self.deadline is None:
            return at_most
        return max(0.0, min(at_most, self.deadline - asyncio.get_running_loop().time()))


class Report(Protocol):
    """What an executor hears of a call while it runs; kept short, as an adapter waits for it."""

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody wants the call to end."""
        ...

    async def until_cancelled(self) -> None:
        """Return once `cancel_requested`; never, where nobody wants that."""
        ...

    async def progress(
        self, done: float | None = None, total: float | None = None, message: str | None = None
    ) -> None:
        """Say how far it is: `done` of `total` where it is known. May be called often."""
        ...

    async def tell_run(self, name: str, status: str, link: str) -> None:
        """Tell of a run elsewhere that does the work, such as a job, and where a person sees it.

        The last word counts.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The work is done."""

    value: Any = None
    """JSON. Beside `content` it is MCP's `structuredContent`, or None for none."""
    content: Sequence[Mapping[str, Any]] | None = None
    """MCP's content blocks, where the target answered in those."""


class Known(StrEnum):
    """What is known of a failed attempt's effect at the target."""

    REFUSED = "refused"
    """It was asked and said no, or the asking itself is wrong: it will not have another answer."""
    NOT_DONE = "not_done"
    """It has not begun: no connection, or the target says that it is busy."""
    UNKNOWN = "unknown"
    """It was sent, and what became of it is not known."""
    DONE = "done"
    """The work is done, and its answer cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The work is not done, or nobody knows; made by `failure`, which holds the one rule."""

    code: str
    message: str
    retryable: bool = False
    retry_after_s: float | None = None
    """The target's wish: not before."""
    outcome_unknown: bool = False
    """It may have had its effect, and must not be made again: a person looks."""
    known: Known = Known.REFUSED
    """What the two above follow from."""
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """JSON: what the target said, such as `status` and `body`, or MCP's `content`."""

    def __post_init__(self) -> None:
        assert not (self.retryable and self.outcome_unknown), "either it may be repeated, or not"


Outcome = Result | Failure


class CallFailedError(Exception):
    """Ends a call from any depth of a kind's code; `Adapters.run` makes a `Failure` of it."""

    def __init__(
        self,
        known: Known,
        code: str,
        message: str,
        *,
        retry_after_s: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.known = known
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s
        self.details = details or {}


def failure(call: AdapterCall, error: CallFailedError) -> Failure:
    """The one retry rule, for every kind.

    A refusal is final, and so is what was done. What is definitely not done is tried again for
    every tool. Of what nobody knows, another attempt is made where that does no harm; else its
    outcome stays unknown.
    """
    over = error.code in (CANCELLED, DEADLINE_EXCEEDED)
    match error.known:
        case Known.REFUSED | Known.DONE:
            retryable = False
        case Known.NOT_DONE:
            retryable = not over
        case Known.UNKNOWN:
            retryable = call.repeatable and not over
    return Failure(
        code=error.code,
        message=error.message,
        retryable=retryable,
        retry_after_s=error.retry_after_s if retryable else None,
        outcome_unknown=error.known is Known.UNKNOWN and not retryable,
        known=error.known,
        details=error.details,
    )


def invalid_arguments(words: str) -> CallFailedError:
    """A call whose arguments cannot be given to the target."""
    return CallFailedError(Known.REFUSED, INVALID_ARGUMENTS, words)


def credential_unavailable(words: str) -> CallFailedError:
    """A call that cannot begin, as its credential is not there."""
    return CallFailedError(Known.NOT_DONE, CREDENTIAL_UNAVAILABLE, words)


def target_changed(tool: str, reviewed: str, found: str | None) -> CallFailedError:
    """A call of what its target does not tell any more as it was reviewed."""
    words = "is not what was reviewed" if found else "is not among what it offers any more"
    return CallFailedError(
        Known.REFUSED,
        TARGET_CHANGED,
        f"The target's {tool} {words}; it was not called.",
        details={"tool": tool, "reviewed": reviewed, "found": found},
    )


class Secrets(Protocol):
    """Values behind references, for one target and tenant (`adapters.credentials`)."""

    async def value(self, reference: str) -> str:
        """The value; it is masked in everything that is reported.

        Raises:
            CallFailedError: there is none, or it cannot be read now.
        """
        ...

    async def access_token(self, credential: Mapping[str, Any], user: str | None) -> str:
        """A token for a credential of type `oauth2` or `exchange`; masked too.

        Raises:
            CallFailedError: the authorization server gives none.
        """
        ...

    def forget_token(self, credential: Mapping[str, Any], user: str | None) -> None:
        """Ask for another the next time: the target has refused this one."""
        ...

    def hide(self, value: str) -> None:
        """Mask this too: what was made of a value, such as a token or a header."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What an adapter is made of; one is kept for each target and tenant."""

    target: Target
    tenant: str
    secrets: Secrets
    shared: Any = None
    """What all adapters of the kind share, as the kind's `share` made it."""


class Adapter(Protocol):
    """One kind's client of one target, for one tenant; many calls at once."""

    async def run(self, call: AdapterCall, report: Report) -> Outcome:
        """Do the work.

        A cancelled task ends what it has begun at the target within seconds, and may raise
        CallFailedError, to say what it knows of the effect, in place of CancelledError.

        Raises:
            CallFailedError: it is not done.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and processes; no call is running."""
        ...


class Shared(Protocol):
    """What all adapters of a kind share in one executor; closed after them."""

    async def close(self) -> None:
        """Let go of it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of adapters."""

    open: Callable[[Opening], Adapter]
    """Makes an adapter; connects to nothing yet."""
    check: Callable[[Target, Mapping[str, Any]], Iterable[str]]
    """What is wrong with a target and a tool's mapping, each a sentence; without any I/O."""
    share: Callable[[], Shared] | None = None
    """Makes what an executor's adapters of this kind have in common."""

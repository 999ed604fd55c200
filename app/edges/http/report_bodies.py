"""What adapters say, as JSON: a claim, progress, a result, a rejection, a word about a run."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.commands.report import Kind, Report
from app.contract import Method, Name, Tenant
from app.identity import Identity
from app.json_values import KeptObject, KeptValue, PlainText

ATTEMPT_MAX: Final = 2**31 - 1
LOG_MAX: Final = 4000
"""Characters of a run's output that are kept with its command."""

Attempt = Annotated[int, Field(ge=1, le=ATTEMPT_MAX)]


class ClaimBody(BaseModel):
    """One run of an adapter asks for an attempt.

    Tenant, tool and method are those of the event that the adapter acts on: where they are not the
    command's, the claim is refused (`claim_mismatch`). Adapters should send them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempt: Attempt
    adapter: Annotated[PlainText, Field(min_length=1, max_length=200)] = Field(
        description="Names this run, uniquely."
    )
    tenant_id: Tenant | None = None
    tool: Name | None = None
    method: Method | None = None

    @model_validator(mode="after")
    def whole(self) -> Self:
        """Tenant, tool and method come together."""
        if len({self.tenant_id is None, self.tool is None, self.method is None}) > 1:
            raise ValueError("tenant_id, tool and method come together")
        return self

    def report(self, who: Identity, command_id: UUID) -> Report:
        """As the batcher takes it."""
        named = None
        if self.tenant_id is not None:
            named = (self.tenant_id, self.tool or "", self.method or "")
        return Report(
            kind=Kind.CLAIM,
            adapter=who,
            command_id=command_id,
            attempt=self.attempt,
            run=self.adapter,
            named=named,
        )


class ProgressBody(BaseModel):
    """How far it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Annotated[PlainText, Field(min_length=1, max_length=100)]
    percent: float | None = Field(default=None, ge=0, le=100)
    message: Annotated[PlainText, Field(max_length=2000)] | None = None
    attempt: Attempt | None = None

    def report(self, who: Identity, command_id: UUID) -> Report:
        """As the batcher takes it."""
        return Report(
            kind=Kind.PROGRESS,
            adapter=who,
            command_id=command_id,
            attempt=self.attempt,
            stage=self.stage,
            percent=self.percent,
            message=self.message,
        )


def _check_error(error: Mapping[str, Any]) -> None:
    """What the broker reads of an error; pydantic wants ValueError of what does not fit."""
    for name in ("retryable", "outcome_unknown"):
        if not isinstance(error.get(name, False), bool):
            raise ValueError(f"error.{name} is true or false")  # noqa: TRY004
    after = error.get("retry_after_s")
    if after is not None and (isinstance(after, bool) or not isinstance(after, int | float)):
        raise ValueError("error.retry_after_s is a number of seconds")


class ResultBody(BaseModel):
    """How an attempt ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Literal["ok", "error"]
    result: KeptValue = None
    error: KeptObject | PlainText | None = None
    attempt: Attempt | None = None

    @model_validator(mode="after")
    def whole(self) -> Self:
        """An error result says what went wrong."""
        if self.status == "error" and not self.error:
            raise ValueError("status 'error' comes with an error")
        if self.status == "ok" and self.error:
            raise ValueError("status 'ok' comes without an error")
        if isinstance(self.error, dict):
            _check_error(self.error)
        return self

    def problem(self) -> dict[str, Any] | None:
        """The error, as an object."""
        if self.status == "ok":
            return None
        if isinstance(self.error, dict):
            return self.error
        return {"code": "adapter_error", "message": str(self.error)}

    def report(self, who: Identity, command_id: UUID) -> Report:
        """As the batcher takes it."""
        return Report(
            kind=Kind.RESULT,
            adapter=who,
            command_id=command_id,
            attempt=self.attempt,
            result=self.result,
            error=self.problem(),
        )


class RejectBody(BaseModel):
    """Why no rule takes an attempt that nobody has claimed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempt: Attempt
    reason: Annotated[PlainText, Field(min_length=1, max_length=500)]

    def report(self, who: Identity, command_id: UUID) -> Report:
        """As the batcher takes it."""
        return Report(
            kind=Kind.REJECT,
            adapter=who,
            command_id=command_id,
            attempt=self.attempt,
            reason=self.reason,
        )


RunName = Annotated[PlainText, Field(min_length=1, max_length=200)]


class RunBody(BaseModel):
    """How a run fares that an executor has started elsewhere, such as a controller's job.

    With an error the run is over, and ends its attempt unless it has said its own last word.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempt: Attempt
    run: RunName = Field(description="Its claim's `adapter`, or what that begins with before a :.")
    parts: list[RunName] = Field(
        default=[], max_length=200, description="Runs that it is made of, such as a workflow's."
    )
    status: Annotated[PlainText, Field(min_length=1, max_length=50)]
    link: Annotated[PlainText, Field(max_length=2000, pattern="^https?://")] | None = None
    log: Annotated[PlainText, Field(max_length=LOG_MAX)] | None = Field(
        default=None, description="The last lines of its output, for people."
    )
    error: KeptObject | None = None
    again_after_s: float | None = Field(
        default=None,
        ge=0,
        le=86400,
        description="Nothing was begun: an unclaimed attempt is sent again as it is, after this.",
    )

    @model_validator(mode="after")
    def whole(self) -> Self:
        """An error is one that the broker can read."""
        if self.error is not None:
            _check_error(self.error)
        elif self.again_after_s is not None:
            raise ValueError("again_after_s comes with an error")
        return self

    def report(self, who: Identity, command_id: UUID) -> Report:
        """As the batcher takes it."""
        return Report(
            kind=Kind.RUN,
            adapter=who,
            command_id=command_id,
            attempt=self.attempt,
            run=self.run,
            parts=tuple(self.parts),
            status=self.status,
            link=self.link,
            log=self.log,
            error=self.error,
            again_after_s=self.again_after_s,
        )


Body = ClaimBody | ProgressBody | ResultBody | RejectBody | RunBody


class ClaimItem(ClaimBody):
    """A claim of a batch."""

    op: Literal["claim"]
    correlation_id: UUID


class ProgressItem(ProgressBody):
    """Progress of a batch."""

    op: Literal["progress"]
    correlation_id: UUID


class ResultItem(ResultBody):
    """A result of a batch."""

    op: Literal["result"]
    correlation_id: UUID


class RejectItem(RejectBody):
    """A rejection of a batch."""

    op: Literal["reject"]
    correlation_id: UUID


class RunItem(RunBody):
    """A word about a run, of a batch."""

    op: Literal["run"]
    correlation_id: UUID


Item = Annotated[
    ClaimItem | ProgressItem | ResultItem | RejectItem | RunItem, Field(discriminator="op")
]

"""Who must let a call go before it is dispatched: what a tool's policy says of approvals."""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from app.catalog.rules import Rule, RuleError
from app.contract import Text

QUORUM_MAX: Final = 20


def names(value: Any) -> Any:
    """One name may stand without a list, none at all as null."""
    return () if value is None else (value,) if isinstance(value, str) else value


Groups = Annotated[tuple[Text, ...], BeforeValidator(names), Field(max_length=10)]


class Approval(BaseModel):
    """Whether a tool's calls wait for persons, for whom, and for how long.

    `approval: ask` in the catalog is short for `approval: {by: ask}`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["none", "ask", "operator"] = Field(
        default="operator",
        description="ask: the person behind the client where it can ask, else an operator.",
    )
    approvers: Groups = Field(
        default=(), description="Groups of which one may decide; operators where none is named."
    )
    not_own: bool = Field(default=False, description="Nobody approves a call of their own.")
    quorum: int = Field(
        default=1,
        ge=1,
        le=QUORUM_MAX,
        description="How many different persons must approve; one denial denies.",
    )
    expires_s: float | None = Field(
        default=None, gt=0, description="A call that waits longer for its decision is denied."
    )
    escalate_s: float | None = Field(
        default=None, gt=0, description="After this `escalate_to` may decide as well."
    )
    escalate_to: Groups = ()
    when: str | None = Field(
        default=None,
        min_length=1,
        description="CEL: which calls wait. One of which it cannot be told does.",
    )

    @model_validator(mode="after")
    def coherent(self) -> Self:
        """No part of it is without effect."""
        if self.by == "none" and self.model_fields_set - {"by"}:
            raise ValueError("approval: by: none asks nobody; say by: ask or by: operator")
        for groups in (self.approvers, self.escalate_to):
            if len(set(groups)) < len(groups):
                raise ValueError("approval: a group stands there twice")
        if (self.escalate_s is None) != (not self.escalate_to):
            raise ValueError("approval: escalate_s and escalate_to go together")
        if set(self.escalate_to) & set(self.approvers):
            raise ValueError("approval: escalate_to names a group that may decide from the start")
        if None not in (self.escalate_s, self.expires_s) and self.escalate_s >= self.expires_s:  # pyright: ignore[reportOperatorIssue]
            raise ValueError("approval: escalate_s must be less than expires_s")
        if self.when is not None:
            try:
                Rule.compile(self.when)
            except RuleError as error:
                raise ValueError(f"approval.when: {error}") from error
        return self

    @model_serializer(mode="wrap")
    def short(self, handler: SerializerFunctionWrapHandler) -> Any:
        """As the word that earlier releases have for it, where it says no more than that."""
        return self.by if self == Approval(by=self.by) else handler(self)


NOBODY: Final = Approval(by="none")


def read(value: Any) -> Any:
    """A word stands for an approval that says no more."""
    return {"by": value} if isinstance(value, str) else value

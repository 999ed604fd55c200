"""An adapter's report as an edge has read it, and the answer to it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import orjson

from app.catalog.policy import Dedupe, ToolPolicy
from app.catalog.redaction import Secrets, mask
from app.commands.state import State
from app.commands.store.moves import brief
from app.contract import instant
from app.errors import UnavailableError, UnprocessableReportError
from app.identity import Identity, allowed_by_binding
from app.postgres.engine import code_of, dump
from app.traces.context import claimed


class Kind(StrEnum):
    """What an adapter reports."""

    CLAIM = "claim"
    PROGRESS = "progress"
    RESULT = "result"
    REJECT = "reject"
    RUN = "run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What reports must know of their command; none of it changes while the command lives."""

    tenant_id: str
    tool: str
    method: str
    ordering_key: str | None
    hidden: Secrets
    """The call's secrets, which no report may quote."""

    @property
    def key(self) -> tuple[str, str] | None:
        """The head of its ordering key, if it has one."""
        return None if self.ordering_key is None else (self.tenant_id, self.ordering_key)

    def is_open_to(self, adapter: Identity) -> bool:
        """Whether an adapter may speak for a command of this tenant and tool."""
        of_tenant = adapter.tenants is None or self.tenant_id in adapter.tenants
        return of_tenant and allowed_by_binding(adapter, self.tool, self.method)

    def is_named(self, report: "Report") -> bool:
        """Whether a claim's event speaks of this command, as far as it says of which it does."""
        return report.named is None or report.named == (self.tenant_id, self.tool, self.method)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One report, as an edge has read it."""

    kind: Kind
    adapter: Identity
    command_id: UUID
    attempt: int | None
    run: str = ""
    """Of a claim, or of a word about a run: names one run of an adapter, not one program."""
    parts: tuple[str, ...] = ()
    """Of a word about a run: the runs that it is made of, one of which may have claimed."""
    named: tuple[str, str, str] | None = None
    """Of a claim: the tenant, tool and method that its event had."""
    stage: str = ""
    percent: float | None = None
    message: str | None = None
    result: Any = None
    error: Mapping[str, Any] | None = None
    reason: str = ""
    status: str = ""
    link: str | None = None
    log: str | None = None
    """Of a word about a run: the last lines of its output."""
    again_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of a report: an HTTP status and a body."""

    status: int
    body: Mapping[str, Any]


GONE: Final = frozenset({"cancelled", "deadline_passed"})
"""Refusals that answer 410: this command is not wanted any more. The others answer 409."""


def go(command: Mapping[str, Any], lease_s: float, *, idempotent: bool) -> dict[str, Any]:
    """The answer to a claim that was granted: all that an adapter acts on.

    `left_s` is for how long it may run from now on, by the database's clock. With a tool that names
    an adapter come what the catalog says of it, and its target: without any secret.
    """
    saga_id = command["saga_id"]
    answer: dict[str, Any] = {
        "proceed": True,
        "correlation_id": str(command["id"]),
        "tenant_id": command["tenant_id"],
        "user_id": command["user_id"],
        "tool": command["tool"],
        "method": command["method"],
        "args": command["args"],
        "attempt": command["attempt"],
        "ordering_key": command["ordering_key"],
        "saga_id": None if saga_id is None else str(saga_id),
        "saga_step": command["saga_step"],
        "traceparent": command["traceparent"],
        "deadline_at": instant(command["deadline_at"]),
        "lease_s": lease_s,
        "left_s": command["left_s"],
        "idempotent": idempotent,
    }
    if command["adapter"] is not None:
        answer |= {"adapter": command["adapter"], "target": command["target"]}
    return answer


def granted(row: Mapping[str, Any], policy: ToolPolicy, lease_s: float) -> Answer:
    """The answer to a row of the statement of claims; its JSON goes as it stands."""
    fields = dict(row)
    for name in ("args", "adapter", "target"):
        if fields[name] is not None:
            fields[name] = orjson.Fragment(fields[name])
    body = go(fields, policy.lease_s or lease_s, idempotent=policy.idempotent)
    return Answer(status=200, body=body)


def continued(body: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a claim that was granted, where what is done for it is a child of its span."""
    return dict(body) | {
        "traceparent": claimed(body["traceparent"], body["correlation_id"], body["attempt"])
    }


def heard(*, cancel_requested: bool) -> Answer:
    """The answer to progress; on a requested cancel the adapter is to stop."""
    return Answer(status=200, body={"ok": True, "cancel_requested": cancel_requested})


def ended(state: State, *, repeated: bool, misfit: str | None = None) -> Answer:
    """The answer to a result or a rejection; `misfit` as the function of that name tells."""
    body: dict[str, Any] = {"ok": True, "state": str(state), "repeated": repeated}
    return Answer(status=200, body=body | ({} if misfit is None else {"misfit": misfit}))


MISFIT_MAX: Final = 300
"""Characters of what is said of a result that does not fit; it can quote the result."""

Row = Callable[[Report, Subject, ToolPolicy, float], tuple[object, ...]]
"""A report as its batch's statement takes it; last comes the lease of tools without one."""


def claim_row(
    report: Report, subject: Subject, policy: ToolPolicy, lease_s: float
) -> tuple[object, ...]:
    """As `report_batch.CLAIM` takes it, but for the random ids."""
    return (
        report.command_id,
        report.attempt,
        report.run,
        f"adapter:{report.adapter.client_id}",
        policy.lease_s or lease_s,
        policy.max_runtime_s,
        subject.tenant_id,
        subject.tool,
        subject.method,
    )


def progress_row(
    report: Report, subject: Subject, policy: ToolPolicy, lease_s: float
) -> tuple[object, ...]:
    """As `report_batch.PROGRESS` takes it."""
    return (
        report.command_id,
        report.attempt,
        mask(report.stage, subject.hidden),
        report.percent,
        mask(report.message, subject.hidden),
        policy.lease_s or lease_s,
    )


def end_row(
    report: Report, subject: Subject, policy: ToolPolicy, _lease_s: float
) -> tuple[object, ...]:
    """As `report_batch.END` takes it, but for the random ids."""
    error = mask(report.error, subject.hidden)
    window = policy.dedupe is Dedupe.WINDOW and error is None
    return (
        report.command_id,
        report.attempt,
        State.SUCCEEDED if error is None else State.FAILED,
        error is not None and policy.retry.on_error and bool(error.get("retryable", True)),
        f"adapter:{report.adapter.client_id}",
        None if report.result is None or error is not None else dump(report.result),
        None if error is None else dump(error),
        None if error is None else dump(brief(error)),
        policy.dedupe_window_s if window else None,
    )


def misfit(report: Report, output: Any) -> str | None:
    """Why a result does not fit its tool's output schema, for the adapter's author.

    Of an answer in MCP's own content blocks it is the structured part that must.
    """
    if output is None or report.kind is not Kind.RESULT or report.error is not None:
        return None
    value = report.result
    if isinstance(value, dict) and set(value) == {"mcp"} and isinstance(value["mcp"], dict):
        value = value["mcp"].get("structuredContent")
    first = next(output.iter_errors(value), None)
    if first is None:
        return None
    at = "/" + "/".join(map(str, first.instance_path))
    return f"{at}: {first.message}"[:MISFIT_MAX]


def away(error: Exception) -> UnavailableError:
    """What a reporter is told while the database is away."""
    return UnavailableError(f"The database is away; send the report again ({code_of(error)}).")


def refused(misfit: str) -> UnprocessableReportError:
    """What a reporter is told where its tool's policy refuses a result that does not fit."""
    return UnprocessableReportError(
        f"The result does not fit the tool's output schema: {misfit}. It was not applied; report"
        " one that fits, or an error."
    )


def unkept(error: Exception) -> UnprocessableReportError:
    """What a reporter is told of a value that PostgreSQL refuses as data."""
    return UnprocessableReportError(
        f"The report holds a value that PostgreSQL cannot keep ({code_of(error)}); it was not"
        " applied. Do not send it again: report an error that says so."
    )

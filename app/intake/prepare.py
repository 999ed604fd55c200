"""From a parsed call to one that only has to be written: tool, grants, schema, key, limits."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final, Literal, Protocol
from uuid import UUID

import orjson
import uuid_utils.compat as uuid_utils

from app.catalog.cache import Catalog, Compiled, TenantView
from app.catalog.policy import Dedupe, Tool, allowed
from app.catalog.redaction import redact
from app.catalog.rules import Asked
from app.config import Settings
from app.contract import Priority
from app.errors import (
    BadRequestError,
    ForbiddenError,
    InvalidArgumentsError,
    OversizeError,
    UnknownToolError,
    cut,
)
from app.identity import Identity
from app.intake.approving import approving
from app.intake.call import Call, fingerprint
from app.json_values import JsonRefusedError, checked, integral

PROBLEMS_MAX: Final = 10
NOT_BEFORE_MAX: Final = timedelta(days=366)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRequest:
    """A call as an edge parsed it."""

    tool: str
    method: str
    args: Mapping[str, Any]
    idempotency_key: str | None = None
    key_source: Literal["meta", "header", "body"] = "body"
    correlation_id: UUID | None = None
    ordering_key: str | None = None
    deadline_s: float | None = None
    priority: str | None = None
    accept_async: bool = False
    accept_partials: bool = False
    saga_id: UUID | None = None
    saga_step: str | None = None
    compensation: Mapping[str, Any] | None = None
    not_before: datetime | None = None
    labels: tuple[str, ...] = ()
    asserted: Mapping[str, str] | None = None
    traceparent: str | None = None
    approved: bool = False


class Refused(Protocol):
    """Has a call audited that made no command."""

    async def __call__(
        self,
        who: Identity,
        request: "CallRequest",
        *,
        kind: str,
        reason: str,
        policy: str | None = None,
    ) -> None: ...


class Preparer:
    """Makes calls of requests, by the catalog as it is known here."""

    def __init__(self, catalog: Catalog, settings: Settings, *, refused: Refused) -> None:
        self._catalog = catalog
        self._settings = settings
        self._refused = refused

    async def prepare(self, identity: Identity, request: CallRequest) -> tuple[Call, Tool]:
        """Check a call in full and give it its key, order, deadline and priority.

        Raises:
            UnknownToolError: also where the identity has no grant for it; the denial is audited.
            ForbiddenError: also where its grants do not take these arguments; audited as well.
            InvalidArgumentsError, OversizeError, BadRequestError
        """
        view = await self._served(identity, request)
        found = await self._catalog.find(request.tool, request.method)
        path = f"{request.tool}/{request.method}"
        if found is None or not allowed(path, view.grants, identity):
            reason = "no grant" if found else "no such tool"
            await self._refused(identity, request, kind="call.denied", reason=reason)
            raise UnknownToolError(f"There is no tool {path!r} that you may call; see tools/list.")
        request = replace(
            request,
            args=self._check_args(found, request),
            compensation=_kept(request.compensation),
        )
        ruled = await self._ruled(identity, request, found, view) if view.conditions else None
        call = self._call(identity, request, found)
        return (call if ruled is None else replace(call, ruled=ruled)), found.tool

    async def prepare_own(self, identity: Identity, request: CallRequest, own: Compiled) -> Call:
        """As `prepare`, for a tool of the broker's own, which needs no grant.

        Raises as `prepare`.
        """
        await self._served(identity, request)
        if request.not_before is not None:
            raise BadRequestError("A saga starts at once: it has no not_before.")
        request = replace(request, args=self._check_args(own, request))
        return self._call(identity, request, own)

    async def _ruled(
        self, identity: Identity, request: CallRequest, found: Compiled, view: TenantView
    ) -> Mapping[str, str] | None:
        """What the grants with a condition say of a call that the others leave open.

        Raises:
            ForbiddenError: they do not allow it; which, and why, is audited.
        """
        said = view.ruling(identity, found.tool, Asked.of(identity, request.args, request.labels))
        if said is None:
            return None
        policy = view.version.hex()
        if not said.allowed:
            kind = "call.denied"
            await self._refused(identity, request, kind=kind, reason=said.reason, policy=policy)
            raise ForbiddenError(
                f"You may not call {found.tool.name} so: it depends on the arguments, on who you"
                " are, or on the labels. Nothing was started."
            )
        return {"policy": policy, "allowed_by": said.reason}

    async def _served(self, identity: Identity, request: CallRequest) -> TenantView:
        view = await self._catalog.tenant(identity.tenant_id)
        if view is None:
            reason = "tenant not known or suspended"
            await self._refused(identity, request, kind="call.denied", reason=reason)
            raise ForbiddenError(f"Tenant {identity.tenant_id!r} is not known or is suspended.")
        return view

    def _check_args(self, found: Compiled, request: CallRequest) -> Mapping[str, Any]:
        """The arguments as they are kept: each whole number as an integer."""
        try:
            written = checked(request.args)
        except JsonRefusedError as error:
            problem = {"at": error.at or "/", "problem": error.problem}
            raise InvalidArgumentsError(
                f"{found.tool.name}: {problem['at']}: {error.problem}. Nothing was started.",
                problems=[problem],
            ) from error
        if len(written) > self._settings.args_bytes_max:
            limit = self._settings.args_bytes_max
            size = len(written)
            raise OversizeError(f"The arguments have {size} bytes; at most {limit} are taken.")
        args = integral(dict(request.args), written)
        hold(found.tool.name, found.validator, args)
        return args

    def _call(self, identity: Identity, request: CallRequest, found: Compiled) -> Call:
        tool, policy = found.tool, found.tool.policy
        deadline_s = request.deadline_s or policy.deadline_s or self._settings.deadline_s
        if deadline_s > self._settings.deadline_max_s:
            limit = round(self._settings.deadline_max_s * 1000)
            raise BadRequestError(f"deadline_ms is over the limit of {limit}.")
        _in_reach(request.not_before)
        ordering_key = request.ordering_key
        if ordering_key is None:
            ordering_key = found.key_of(request.args)
        digest = fingerprint(
            user_id=identity.user_id,
            tool=request.tool,
            method=request.method,
            args=request.args,
            ordering_key=ordering_key,
            saga_id=request.saga_id,
            saga_step=request.saga_step,
            compensation=request.compensation,
            not_before=request.not_before,
        )
        correlation_id = request.correlation_id or uuid_utils.uuid7()
        derived = request.idempotency_key is None
        off = policy.dedupe is Dedupe.OFF or tool.read_only
        return Call(
            correlation_id=correlation_id,
            tenant_id=identity.tenant_id,
            user_id=identity.user_id,
            actor=f"user:{identity.user_id}",
            tool=request.tool,
            method=request.method,
            args=request.args,
            args_audited=(
                redact(dict(request.args), tool.input_schema) if found.marked else request.args
            ),
            idempotency_key=request.idempotency_key or f"auto:{correlation_id}",
            key_source="derived" if derived else request.key_source,
            dedupe_key=digest if derived and not off else None,
            fingerprint=digest,
            ordering_key=ordering_key,
            ordering=None if ordering_key is None else policy.ordering,
            deadline_s=deadline_s,
            priority=Priority.named(request.priority or policy.priority),
            accept_async=request.accept_async,
            accept_partials=request.accept_partials,
            attempts_max=policy.retry.attempts_max,
            **_approving(identity, request, found),
            saga_id=request.saga_id,
            saga_step=request.saga_step,
            saga_role=None if request.saga_id is None else "step",
            compensation=request.compensation,
            not_before=request.not_before,
            labels=request.labels,
            asserted=request.asserted,
            traceparent=request.traceparent,
            topic=tool.topic,
        )


def hold(name: str, validator: Any, args: Mapping[str, Any]) -> None:
    """Hold arguments to their schema.

    Raises:
        InvalidArgumentsError: they do not fit; it names every problem with its place, up to some.
    """
    problems = [
        {"at": cut("/" + "/".join(map(str, error.instance_path))), "problem": cut(error.message)}
        for error in islice(validator.iter_errors(args), PROBLEMS_MAX)
    ]
    if problems:
        said = "; ".join(f"{one['at']}: {one['problem']}" for one in problems)
        raise InvalidArgumentsError(f"{name}: {said}. Nothing was started.", problems=problems)


def _in_reach(not_before: datetime | None) -> None:
    """Whether a later start is one that is meant.

    One that has passed is taken, as now: a repeat of a call may come after its start.

    Raises:
        BadRequestError: it is further away than any that is.
    """
    if not_before is not None and abs(not_before - datetime.now(UTC)) > NOT_BEFORE_MAX:
        raise BadRequestError(f"not_before is more than {NOT_BEFORE_MAX.days} days away.")


def _kept(compensation: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A compensation as it is kept; it is checked as a call of its own."""
    return compensation and integral(dict(compensation), orjson.dumps(compensation))


def _approving(identity: Identity, request: CallRequest, found: Compiled) -> dict[str, Any]:
    """What a call has of its approval; a tool that asks for none pays nothing for that."""
    if found.tool.policy.approval.by == "none":
        return {}
    asked = Asked.of(identity, request.args, request.labels)
    return approving(found, asked, who=identity, yes=request.approved).of_call()

"""From a parsed call to one that only has to be written: tool, grants, schema, key, limits.

Holds the catalog and the tenants in memory; a notification or an age of some seconds reloads.
"""

import asyncio
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal, Protocol
from uuid import UUID

import jsonschema_rs
import orjson
import uuid_utils.compat as uuid_utils
from sqlalchemy.ext.asyncio import AsyncEngine

from app.catalog import store as catalog_store
from app.catalog.policy import Dedupe, Grant, Tool, ToolPolicy, allowed
from app.catalog.redaction import REDACTED, marks, redact, secrets
from app.catalog.store import Tenant
from app.config import Settings
from app.contract import Priority
from app.errors import (
    BadRequestError,
    ForbiddenError,
    InvalidArgumentsError,
    OversizeError,
    UnknownToolError,
)
from app.identity import Identity
from app.intake.call import Call, fingerprint
from app.intake.queues import Queues, Shared
from app.postgres.engine import tenant_transaction

TENANTS_KEPT_MAX: Final = 10_000
PROBLEMS_MAX: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A tool with its argument check ready."""

    tool: Tool
    validator: Any
    marked: bool
    """Whether its schema marks an argument as a secret."""

    @classmethod
    def of(cls, tool: Tool) -> "Compiled":
        """A tool with its check."""
        schema = tool.input_schema
        return cls(tool=tool, validator=validator_of(schema), marked=marks(schema))


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantView:
    """A tenant with its grants."""

    tenant: Tenant
    grants: tuple[Grant, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
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
    traceparent: str | None = None
    approved: bool = False


class Refused(Protocol):
    """Has a call audited that made no command."""

    async def __call__(
        self, who: Identity, request: "Request", *, kind: str, reason: str
    ) -> None: ...


class Catalog:
    """What may be called, as of some seconds ago at most."""

    def __init__(self, engine: AsyncEngine, settings: Settings, *, refused: Refused) -> None:
        self._engine = engine
        self._settings = settings
        self._refused = refused
        self._tools: dict[tuple[str, str], Compiled] = {}
        self._names: dict[str, Compiled] = {}
        self._tools_at = float("-inf")
        self._tenants: dict[str, tuple[float, TenantView | None]] = {}
        self._queues = Queues(engine)
        self._shared = Shared()
        self.version = ""
        self.changed = asyncio.Event()
        """Set, and replaced, when something may have changed. Take it before you read."""

    def forget(self) -> None:
        """Something changed: read everything again when next asked."""
        self._tools_at = float("-inf")
        self._tenants.clear()
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    async def tools(self) -> dict[tuple[str, str], Compiled]:
        """Every tool in service."""
        if time.monotonic() - self._tools_at > self._settings.catalog_kept_s:
            await self._shared.once(("tools", self.changed), self._load_tools)
        return self._tools

    async def _load_tools(self) -> None:
        changed = self.changed
        async with self._engine.connect() as conn:
            found = await catalog_store.tools(conn)
        if changed is not self.changed and self.version:
            return  # a later load may have been quicker, and its tools are newer
        digest = hashlib.sha256(b"".join(tool.digest for tool in found)).hexdigest()
        if digest != self.version:
            compiled = [Compiled.of(tool) for tool in found]
            self._tools = {(one.tool.tool, one.tool.method): one for one in compiled}
            self._names = {one.tool.name: one for one in compiled}
            self.version = digest
        self._tools_at = self._read_at(changed)

    def _read_at(self, changed: asyncio.Event) -> float:
        """The age of what was read; it is old if something changed meanwhile."""
        return time.monotonic() if changed is self.changed else float("-inf")

    async def tenant(self, tenant_id: str) -> TenantView | None:
        """A tenant's limits and grants; None for a tenant that is not known or suspended."""
        kept = self._tenants.get(tenant_id)
        if kept is not None and time.monotonic() - kept[0] <= self._settings.catalog_kept_s:
            return kept[1]
        # A burst on a cold catalog must not take every connection for the same few rows.
        key = (tenant_id, self.changed)
        return await self._shared.once(key, lambda: self._load_tenant(tenant_id))

    async def _load_tenant(self, tenant_id: str) -> TenantView | None:
        changed = self.changed
        async with tenant_transaction(self._engine, tenant_id) as conn:
            tenant = await catalog_store.tenant(conn, tenant_id)
            grants = tuple(await catalog_store.grants(conn, tenant_id))
        view = None
        if tenant is not None and tenant.state == "active":
            view = TenantView(tenant=tenant, grants=grants)
        if len(self._tenants) >= TENANTS_KEPT_MAX:
            self._tenants.clear()
        self._tenants[tenant_id] = (self._read_at(changed), view)
        return view

    async def visible(self, identity: Identity) -> list[Tool]:
        """The tools that an identity may call, by name."""
        view = await self.tenant(identity.tenant_id)
        if view is None:
            return []
        await self.tools()
        return [
            one.tool
            for _, one in sorted(self._names.items())
            if allowed(one.tool.path, view.grants, identity)
        ]

    async def may_call(self, identity: Identity, tool: Tool) -> bool:
        """Whether an identity's grants take this tool."""
        view = await self.tenant(identity.tenant_id)
        return view is not None and allowed(tool.path, view.grants, identity)

    async def by_name(self, name: str) -> Tool | None:
        """The tool of a name on the MCP wire, whoever may call it."""
        await self.tools()
        found = self._names.get(name)
        return None if found is None else found.tool

    def schema_of(self, name: str) -> Mapping[str, Any] | None:
        """The argument schema of a tool that is in memory; for the SDK's header check."""
        found = self._names.get(name)
        return None if found is None else found.tool.input_schema

    async def tool(self, tool: str, method: str) -> Tool | None:
        """The tool, whoever may call it; None where it is out of service."""
        found = (await self.tools()).get((tool, method))
        return None if found is None else found.tool

    async def policy(self, tool: str, method: str) -> ToolPolicy:
        """A tool's policy; the default one where the tool is out of service by now."""
        found = await self.tool(tool, method)
        return ToolPolicy() if found is None else found.policy

    async def secrets(self, tool: str, method: str, args: Any) -> frozenset[str]:
        """What of a command's arguments its adapter's words must not quote."""
        found = await self.tool(tool, method)
        return secrets(args, None if found is None else found.input_schema)

    async def prepare(self, identity: Identity, request: Request) -> tuple[Call, Tool]:
        """Check a call in full and give it its key, order, deadline and priority.

        Raises:
            UnknownToolError: also where the identity has no grant for it; the denial is audited.
            InvalidArgumentsError, OversizeError, BadRequestError, ForbiddenError
        """
        view = await self._served(identity, request)
        found = (await self.tools()).get((request.tool, request.method))
        path = f"{request.tool}/{request.method}"
        if found is None or not allowed(path, view.grants, identity):
            reason = "no grant" if found else "no such tool"
            await self._refused(identity, request, kind="call.denied", reason=reason)
            raise UnknownToolError(f"There is no tool {path!r} that you may call; see tools/list.")
        self._check_args(found, request)
        return self._call(identity, request, found), found.tool

    async def prepare_own(self, identity: Identity, request: Request, own: Compiled) -> Call:
        """As `prepare`, for a tool of the broker's own, which needs no grant.

        Raises as `prepare`.
        """
        await self._served(identity, request)
        self._check_args(own, request)
        return self._call(identity, request, own)

    async def _served(self, identity: Identity, request: Request) -> TenantView:
        view = await self.tenant(identity.tenant_id)
        if view is None:
            reason = "tenant not known or suspended"
            await self._refused(identity, request, kind="call.denied", reason=reason)
            raise ForbiddenError(f"Tenant {identity.tenant_id!r} is not known or is suspended.")
        return view

    def _check_args(self, found: Compiled, request: Request) -> None:
        try:
            written = orjson.dumps(request.args)
        except TypeError as error:
            raise InvalidArgumentsError(f"The arguments are not plain JSON: {error}") from error
        if len(written) > self._settings.args_bytes_max:
            limit = self._settings.args_bytes_max
            size = len(written)
            raise OversizeError(f"The arguments have {size} bytes; at most {limit} are taken.")
        if b"\\u0000" in written:
            raise InvalidArgumentsError("The arguments hold a NUL character, which is not kept.")
        problems = [
            {"at": "/" + "/".join(map(str, error.instance_path)), "problem": error.message}
            for error in islice(found.validator.iter_errors(dict(request.args)), PROBLEMS_MAX)
        ]
        if problems:
            first = problems[0]
            raise InvalidArgumentsError(
                f"{found.tool.name}: {first['at']}: {first['problem']}. Correct the arguments and"
                " call again; nothing was started.",
                problems=problems,
            )

    async def check_queue(self, tenant: Tenant) -> None:
        """Refuse at the tenant's bound, as counted some milliseconds ago.

        Raises:
            QueueFullError: the tenant has as many queued commands as it may.
        """
        await self._queues.admit(tenant)

    def _call(self, identity: Identity, request: Request, found: Compiled) -> Call:
        tool, policy = found.tool, found.tool.policy
        deadline_s = request.deadline_s or policy.deadline_s or self._settings.deadline_s
        if deadline_s > self._settings.deadline_max_s:
            limit = round(self._settings.deadline_max_s * 1000)
            raise BadRequestError(f"deadline_ms is over the limit of {limit}.")
        ordering_key = request.ordering_key
        if ordering_key is None:
            ordering_key = tool.key_of(request.args)
        digest = fingerprint(
            user_id=identity.user_id,
            tool=request.tool,
            method=request.method,
            args=request.args,
            ordering_key=ordering_key,
            saga_id=request.saga_id,
            saga_step=request.saga_step,
            compensation=request.compensation,
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
            approval=_approval(policy, approved=request.approved),
            saga_id=request.saga_id,
            saga_step=request.saga_step,
            saga_role=None if request.saga_id is None else "step",
            compensation=request.compensation,
            traceparent=request.traceparent,
        )


def _approval(policy: ToolPolicy, *, approved: bool) -> Literal["pending", "approved"] | None:
    """Whether a call waits for somebody's word; the caller's own counts where it is asked for."""
    match policy.approval:
        case "none":
            return None
        case "ask":
            return "approved" if approved else "pending"
        case "operator":
            return "pending"


def validator_of(schema: Mapping[str, Any]) -> Any:
    """The check of a tool's arguments; its words quote no value where the schema marks any."""
    if marks(schema):
        return jsonschema_rs.validator_for(dict(schema), mask=REDACTED)
    return jsonschema_rs.validator_for(dict(schema))

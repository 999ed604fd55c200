"""The catalog in memory: tools, tenants and grants; a notification or an age of seconds reloads.

The app keeps all of it, the relay the tools.
"""

import asyncio
import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field
from typing import Any, Final

import orjson
from sqlalchemy.ext.asyncio import AsyncEngine

from app.catalog import store as catalog_store
from app.catalog.patterns import kept_validator_for
from app.catalog.policy import (
    Grant,
    Rules,
    Ruling,
    Tool,
    ToolPolicy,
    allowed,
    hides_key,
    permits,
    rules_of,
    ruling,
)
from app.catalog.redaction import REDACTED, Secrets, marks, secrets
from app.catalog.rules import Asked, Broken, Rule, kept
from app.catalog.single_flight import SingleFlight
from app.catalog.store import Tenant, UnreadableTool
from app.errors import UnavailableError
from app.identity import Identity
from app.postgres.engine import tenant_transaction

TENANTS_KEPT_MAX: Final = 10_000
SEEN_KEPT_MAX: Final = 10_000
MATCHED_KEPT_MAX: Final = 1_000

Who = tuple[str, str, frozenset[str]]
Version = tuple[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A tool with its argument check ready."""

    tool: Tool
    validator: Any
    marked: bool
    """Whether its schema marks an argument as a secret."""
    key_hidden: bool = False
    """Whether its ordering key may hold what is sensitive, a person's, or not for Kafka."""
    output: Any = None
    """The check of its results, where it lists a schema of them."""
    asks_when: Rule | Broken | None = None
    """Which calls wait for an approval, where its policy tells some from others."""

    @classmethod
    def of(cls, tool: Tool) -> "Compiled":
        """A tool with its check."""
        schema, when = tool.input_schema, tool.policy.approval.when
        return cls(
            tool=tool,
            validator=validator_of(schema),
            marked=marks(schema),
            key_hidden=hides_key(tool.policy, schema),
            output=None if tool.output_schema is None else validator_of(tool.output_schema),
            asks_when=None if when is None else kept(when),
        )

    def key_of(self, args: Mapping[str, Any]) -> str | None:
        """The ordering key of a call that names none."""
        return self.tool.key_of(args, hidden=self.key_hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantView:
    """A tenant with its grants."""

    tenant: Tenant
    grants: tuple[Grant, ...]
    version: bytes
    """A digest of the grants."""
    conditions: Mapping[str, Rule | Broken] = field(default_factory=dict)
    """Those of the grants, by their text."""

    def ruling(self, identity: Identity, tool: Tool, asked: Asked) -> Ruling | None:
        """What the grants with a condition say of a call that the others leave open."""
        return ruling(
            tool.path, self.grants, identity, lambda when: self.conditions[when].holds(asked)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VisibleTools:
    """What somebody may call, by name."""

    tools: tuple[Tool, ...]
    digest: str
    """The same at each replica, and another one when any of the tools changes."""

    @classmethod
    def of(cls, tools: Iterable[Tool]) -> "VisibleTools":
        """With its digest."""
        found, digest = tuple(tools), hashlib.sha256()
        for tool in found:
            digest.update(tool.name.encode() + b"\0" + tool.digest)
        return cls(tools=found, digest=digest.hexdigest()[:32])


NOTHING: Final = VisibleTools.of(())


class Tools:
    """The tools in service, as of `kept_s` seconds ago at most: the one cache of their table."""

    def __init__(self, engine: AsyncEngine, *, kept_s: float) -> None:
        self._engine = engine
        self._kept_s = kept_s
        self._tools: dict[tuple[str, str], Compiled] = {}
        self._names: dict[str, Compiled] = {}
        self._unreadable: frozenset[tuple[str, str]] = frozenset()
        self.deciders: frozenset[str] = frozenset()
        """The groups that decide about some tool's approvals."""
        self._tools_at = float("-inf")
        self._loads = SingleFlight()
        self.version = ""
        self.changed = asyncio.Event()
        """Set, and replaced, when something may have changed. Take it before you read."""

    def forget(self) -> None:
        """Something changed: read everything again when next asked."""
        self._tools_at = float("-inf")
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    async def tools(self) -> dict[tuple[str, str], Compiled]:
        """Every tool in service."""
        if time.monotonic() - self._tools_at > self._kept_s:
            await self._loads.once(("tools", self.changed), self._load_tools)
        return self._tools

    async def _load_tools(self) -> None:
        changed = self.changed
        async with self._engine.connect() as conn:
            found = await catalog_store.tools(conn)
        if changed is not self.changed and self.version:
            return  # a later load may have been quicker, and its tools are newer
        digest = hashlib.sha256(b"".join(tool.digest for tool in found)).hexdigest()
        if digest != self.version:
            compiled = [Compiled.of(tool) for tool in found if isinstance(tool, Tool)]
            self._unreadable = frozenset(
                (one.tool, one.method) for one in found if isinstance(one, UnreadableTool)
            )
            self._tools = {(one.tool.tool, one.tool.method): one for one in compiled}
            self._names = {one.tool.name: one for one in compiled}
            said = [one.tool.policy.approval for one in compiled]
            self.deciders = frozenset(
                group for one in said for group in (*one.approvers, *one.escalate_to)
            )
            self.version = digest
        self._tools_at = self._read_at(changed)

    def _read_at(self, changed: asyncio.Event) -> float:
        """The age of what was read; it is old if something changed meanwhile."""
        return time.monotonic() if changed is self.changed else float("-inf")

    async def by_name(self, name: str) -> Tool | None:
        """The tool of a name on the MCP wire, whoever may call it."""
        await self.tools()
        found = self._names.get(name)
        return None if found is None else found.tool

    def schema_of(self, name: str) -> Mapping[str, Any] | None:
        """The argument schema of a tool that is in memory; for the SDK's header check."""
        found = self._names.get(name)
        return None if found is None else found.tool.input_schema

    async def find(self, tool: str, method: str) -> Compiled | None:
        """A tool with its check, whoever may call it; None where it is out of service.

        Raises:
            UnavailableError: its catalog entry is of a release that this one cannot read.
        """
        found = (await self.tools()).get((tool, method))
        if found is None and (tool, method) in self._unreadable:
            raise UnavailableError(
                f"This replica cannot read the catalog's entry of {tool}/{method}: it was written"
                " by a newer release."
            )
        return found

    async def tool(self, tool: str, method: str) -> Tool | None:
        """The tool, whoever may call it; None where it is out of service."""
        found = await self.find(tool, method)
        return None if found is None else found.tool

    async def policy(self, tool: str, method: str) -> ToolPolicy:
        """A tool's policy; the default one where the tool is out of service by now."""
        found = await self.tool(tool, method)
        return ToolPolicy() if found is None else found.policy

    async def secrets(self, tool: str, method: str, args: Any) -> Secrets:
        """What of a command's arguments its adapter's reports must not quote."""
        found = await self.tool(tool, method)
        return secrets(args, None if found is None else found.input_schema)


class Catalog(Tools):
    """The tools, and who may call them, as of some seconds ago at most."""

    def __init__(self, engine: AsyncEngine, *, kept_s: float) -> None:
        super().__init__(engine, kept_s=kept_s)
        self._tenants: dict[str, tuple[float, TenantView | None]] = {}
        self._seen: dict[Who, tuple[Version, VisibleTools]] = {}
        self._matched: dict[Rules, VisibleTools] = {}
        self._matched_of = ""  # the version of the tools

    def forget(self) -> None:
        """Something changed: read everything again when next asked."""
        self._tenants.clear()
        super().forget()

    async def tenant(self, tenant_id: str) -> TenantView | None:
        """A tenant's limits and grants; None for a tenant that is not known or suspended."""
        kept = self._tenants.get(tenant_id)
        if kept is not None and time.monotonic() - kept[0] <= self._kept_s:
            return kept[1]
        # A burst on a cold catalog must not take every connection for the same few rows.
        key = (tenant_id, self.changed)
        return await self._loads.once(key, lambda: self._load_tenant(tenant_id))

    async def _load_tenant(self, tenant_id: str) -> TenantView | None:
        changed = self.changed
        async with tenant_transaction(self._engine, tenant_id) as conn:
            tenant = await catalog_store.tenant(conn, tenant_id)
            grants = tuple(await catalog_store.grants(conn, tenant_id))
        view = None
        if tenant is not None and tenant.state == "active":
            view = TenantView(
                tenant=tenant,
                grants=grants,
                version=_digest(grants),
                conditions={one: kept(one) for one in {one.when for one in grants} if one},
            )
        if len(self._tenants) >= TENANTS_KEPT_MAX:
            self._tenants.clear()
        self._tenants[tenant_id] = (self._read_at(changed), view)
        return view

    async def visible(self, identity: Identity) -> VisibleTools:
        """The tools that an identity may call.

        Found once for an identity and a version of tools and grants, as each open stream asks
        every few seconds; the tools are matched once for all whose grants say the same.
        """
        view = await self.tenant(identity.tenant_id)
        if view is None:
            return NOTHING
        await self.tools()
        who = (identity.tenant_id, identity.user_id, identity.groups)
        version = (self.version, view.version)
        known = self._seen.get(who)
        if known is not None and known[0] == version:
            return known[1]
        rules = rules_of(view.grants, identity)
        if self._matched_of != self.version:
            self._matched.clear()
            self._matched_of = self.version
        found = self._matched.get(rules)
        if found is None:
            tools = (one.tool for _, one in sorted(self._names.items()))
            found = VisibleTools.of(one for one in tools if permits(one.path, rules))
            _keep(self._matched, rules, found, MATCHED_KEPT_MAX)
        _keep(self._seen, who, (version, found), SEEN_KEPT_MAX)
        return found

    async def in_sagas(self, identity: Identity) -> list[Tool]:
        """The tools that an identity may have a saga call, whatever the arguments come to be.

        A condition that reads `args` cannot be evaluated before the saga runs, and so denies.
        """
        view, visible = await self.tenant(identity.tenant_id), await self.visible(identity)
        if view is None or not view.conditions:
            return list(visible.tools)
        asked = Asked.of(identity, None)
        return [
            tool
            for tool in visible.tools
            if (said := view.ruling(identity, tool, asked)) is None or said.allowed
        ]

    async def may_call(self, identity: Identity, tool: Tool) -> bool:
        """Whether an identity's grants take this tool."""
        view = await self.tenant(identity.tenant_id)
        return view is not None and allowed(tool.path, view.grants, identity)


def _digest(grants: Iterable[Grant]) -> bytes:
    lines = sorted(astuple(one) for one in grants)
    return hashlib.sha256(orjson.dumps(lines)).digest()


def _keep(kept: dict[Any, Any], key: object, value: object, most: int) -> None:
    """Keep it as the newest, and as many as there may be."""
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > most:
        del kept[next(iter(kept))]


def validator_of(schema: Mapping[str, Any]) -> Any:
    """The check of a tool's arguments; its messages quote no value where the schema marks any."""
    if marks(schema):
        return kept_validator_for(schema, mask=REDACTED)
    return kept_validator_for(schema)

"""The tables of tools, targets, grants and tenants: what may be asked, by whom, and how much."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from pydantic import ValidationError
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.targets import Target
from app.catalog.adapter import ToolAdapter
from app.catalog.policy import Grant, Tool, ToolPolicy
from app.postgres.engine import dump
from app.postgres.wakeups import CATALOG


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is to change of a tenant; None stays as it is. `unset` names what is to have none."""

    title: str | None = None
    state: str | None = None
    weight: int | None = None
    rate_per_s: float | None = None
    rate_burst: int | None = None
    in_flight_max: int | None = None
    queued_max: int | None = None
    inline_wait_s: float | None = None
    unset: tuple[str, ...] = ()


UNSETTABLE: Final = ("rate_per_s", "inline_wait_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A tenant and its limits."""

    tenant_id: str
    state: str
    weight: int
    rate_per_s: float | None
    rate_burst: int
    in_flight_max: int
    queued_max: int
    inline_wait_s: float | None


logger = logging.getLogger(__name__)

TOOLS: Final = text("""
    SELECT tool, method, name, title, description, input_schema, output_schema, annotations,
           policy, adapter, digest
      FROM tools
     WHERE retired_at IS NULL
     ORDER BY name
""")

PUT_TOOL: Final = text("""
    INSERT INTO tools AS t (tool, method, name, title, description, input_schema, output_schema,
                            annotations, policy, adapter, in_flight_max, digest)
    VALUES (:tool, :method, :name, :title, :description, CAST(:input_schema AS jsonb),
            CAST(:output_schema AS jsonb), CAST(:annotations AS jsonb), CAST(:policy AS jsonb),
            CAST(:adapter AS jsonb), :in_flight_max, :digest)
        ON CONFLICT (tool, method) DO UPDATE
       SET name = excluded.name, title = excluded.title, description = excluded.description,
           input_schema = excluded.input_schema, output_schema = excluded.output_schema,
           annotations = excluded.annotations, policy = excluded.policy,
           adapter = excluded.adapter, in_flight_max = excluded.in_flight_max,
           digest = excluded.digest, applied_at = now(), retired_at = NULL
     WHERE t.digest <> excluded.digest OR t.retired_at IS NOT NULL
    RETURNING 1
""")

RETIRE_OTHERS: Final = text("""
    UPDATE tools
       SET retired_at = now()
     WHERE retired_at IS NULL AND NOT (name = ANY (:names))
    RETURNING name
""")

TARGET_JSON: Final = """
    json_build_object(
        'name', g.name, 'kind', g.kind, 'tenant', g.tenant_id, 'address', g.address, 'tls', g.tls,
        'credential', g.credential, 'limits', g.limits, 'allowed_hosts', g.allowed_hosts,
        'takes_key', g.takes_key, 'options', g.options)
"""
"""A row of `targets`, as `Target.read` takes it."""

TARGET_OF: Final = f"""
    SELECT {TARGET_JSON} AS target
      FROM targets g
     WHERE g.name = {{name}} AND (g.tenant_id = {{tenant}} OR g.tenant_id IS NULL)
     ORDER BY g.tenant_id NULLS LAST
     LIMIT 1
"""
"""A tenant's own target of a name, else the shared one."""

# Of a tool that is out of service, too: its commands go on.
WORK: Final = text(f"""
    SELECT t.adapter, g.target
      FROM tools t
      LEFT JOIN LATERAL ({TARGET_OF.format(name="t.adapter ->> 'target'", tenant=":tenant_id")}) g
        ON true
     WHERE t.tool = :tool AND t.method = :method AND t.adapter IS NOT NULL
""")

TARGETS: Final = text(f"""
    SELECT {TARGET_JSON} AS target
      FROM targets g
     WHERE CAST(:name AS text) IS NULL OR g.name = :name
     ORDER BY g.name, g.tenant_id NULLS FIRST
""")

PUT_TARGET: Final = text("""
    INSERT INTO targets AS g (tenant_id, name, kind, address, tls, credential, limits,
                              allowed_hosts, takes_key, options)
    VALUES (:tenant, :name, :kind, :address, CAST(:tls AS jsonb), CAST(:credential AS jsonb),
            CAST(:limits AS jsonb), CAST(:allowed_hosts AS text[]), :takes_key,
            CAST(:options AS jsonb))
        ON CONFLICT (tenant_id, name) DO UPDATE
       SET kind = excluded.kind, address = excluded.address, tls = excluded.tls,
           credential = excluded.credential, limits = excluded.limits,
           allowed_hosts = excluded.allowed_hosts, takes_key = excluded.takes_key,
           options = excluded.options, applied_at = now()
     WHERE (g.kind, g.address, g.tls, g.credential, g.limits, g.allowed_hosts, g.takes_key,
            g.options)
           IS DISTINCT FROM
           (excluded.kind, excluded.address, excluded.tls, excluded.credential, excluded.limits,
            excluded.allowed_hosts, excluded.takes_key, excluded.options)
    RETURNING 1
""")

REMOVE_TARGET: Final = text("""
    DELETE FROM targets
     WHERE name = :name AND tenant_id IS NOT DISTINCT FROM :tenant
    RETURNING 1
""")

USED_BY: Final = text("""
    SELECT name
      FROM tools
     WHERE retired_at IS NULL AND adapter ->> 'target' = :target
     ORDER BY name
""")

TENANT: Final = text("""
    SELECT tenant_id, state, weight, rate_per_s, rate_burst, in_flight_max, queued_max,
           inline_wait_s
      FROM tenants
     WHERE tenant_id = :tenant_id
""")

TENANT_IDS: Final = text("SELECT tenant_id FROM tenants ORDER BY tenant_id")
ANNOUNCE: Final = text("SELECT pg_notify(:channel, '')")

# What is not given stays as it is, or has the column's default where the tenant is new.
PUT_TENANT: Final = text("""
    INSERT INTO tenants AS t (tenant_id, title, state, weight, rate_per_s, rate_burst,
                              in_flight_max, queued_max, inline_wait_s)
    VALUES (:tenant_id, coalesce(:title, ''), coalesce(:state, 'active'), coalesce(:weight, 1),
            :rate_per_s, coalesce(:rate_burst, 100), coalesce(:in_flight_max, 100),
            coalesce(:queued_max, 100000), :inline_wait_s)
        ON CONFLICT (tenant_id) DO UPDATE
       SET title = coalesce(:title, t.title), state = coalesce(:state, t.state),
           weight = coalesce(:weight, t.weight),
           rate_per_s = CASE WHEN 'rate_per_s' = ANY (:unset) THEN NULL
                             ELSE coalesce(:rate_per_s, t.rate_per_s) END,
           rate_burst = coalesce(:rate_burst, t.rate_burst),
           in_flight_max = coalesce(:in_flight_max, t.in_flight_max),
           queued_max = coalesce(:queued_max, t.queued_max),
           inline_wait_s = CASE WHEN 'inline_wait_s' = ANY (:unset) THEN NULL
                                ELSE coalesce(:inline_wait_s, t.inline_wait_s) END
    RETURNING xmax = 0 AS made
""")

GRANTS: Final = text("""
    SELECT subject_kind, subject, pattern, effect, condition AS "when"
      FROM grants
     WHERE tenant_id = :tenant_id
""")

ADD_GRANT: Final = text("""
    INSERT INTO grants AS g (tenant_id, subject_kind, subject, pattern, effect, condition)
    VALUES (:tenant_id, :subject_kind, :subject, :pattern, :effect, :when)
        ON CONFLICT (tenant_id, subject_kind, subject, pattern, effect) DO UPDATE
       SET condition = excluded.condition
     WHERE g.condition <> excluded.condition
""")

REMOVE_GRANT: Final = text("""
    DELETE FROM grants
     WHERE tenant_id = :tenant_id AND subject_kind = :subject_kind AND subject = :subject
       AND pattern = :pattern AND effect = :effect
""")

QUEUED: Final = text("""
    SELECT count(*)
      FROM (SELECT FROM commands
             WHERE tenant_id = :tenant_id AND state = 'queued'
             LIMIT :limit) AS waiting
""")


@dataclass(frozen=True, slots=True)
class UnreadableTool:
    """A tool in service whose policy this release does not understand."""

    tool: str
    method: str
    digest: bytes


async def tools(conn: AsyncConnection) -> list[Tool | UnreadableTool]:
    """Every tool in service, by name.

    A later release may have written them: a field that is not known is left out, and an entry
    that cannot be read at all keeps none of the others from their callers.
    """
    rows = await conn.execute(TOOLS)
    found: list[Tool | UnreadableTool] = []
    for row in rows.mappings():
        values: dict[str, Any] = dict(row)
        try:
            values["policy"] = ToolPolicy.model_validate(row["policy"], extra="ignore")
            if row["adapter"] is not None:
                values["adapter"] = ToolAdapter.model_validate(row["adapter"])
        except ValidationError as error:
            logger.error("a tool's catalog entry cannot be read: %s", error)  # noqa: TRY400 data
            found.append(UnreadableTool(row["tool"], row["method"], row["digest"]))
        else:
            found.append(Tool(**values))
    return found


async def put_tool(conn: AsyncConnection, tool: Tool, *, in_flight_max: int | None) -> bool:
    """Write a tool; False where it was the same already."""
    values: dict[str, Any] = {
        "tool": tool.tool,
        "method": tool.method,
        "name": tool.name,
        "title": tool.title,
        "description": tool.description,
        "input_schema": dump(tool.input_schema),
        "output_schema": None if tool.output_schema is None else dump(tool.output_schema),
        "annotations": dump(tool.annotations),
        "policy": tool.policy.model_dump_json(),
        "adapter": None if tool.adapter is None else tool.adapter.model_dump_json(),
        "in_flight_max": in_flight_max,
        "digest": tool.digest,
    }
    return bool(await conn.scalar(PUT_TOOL, values))


async def retire_others(conn: AsyncConnection, names: Sequence[str]) -> list[str]:
    """Take every other tool out of service; its commands go on."""
    return list((await conn.execute(RETIRE_OTHERS, {"names": list(names)})).scalars())


async def work(
    conn: AsyncConnection, *, tenant_id: str, tool: str, method: str
) -> tuple[Any, Any] | None:
    """A tool's adapter and its target, as JSON; None for a tool without an adapter."""
    values = {"tenant_id": tenant_id, "tool": tool, "method": method}
    row = (await conn.execute(WORK, values)).one_or_none()
    return None if row is None else (row.adapter, row.target)


async def targets(conn: AsyncConnection, name: str | None = None) -> list[Target]:
    """Every target, or those of a name; the shared one of a name comes first."""
    rows = await conn.execute(TARGETS, {"name": name})
    return [Target.read(row) for row in rows.scalars()]


async def put_target(conn: AsyncConnection, target: Target) -> bool:
    """Write a target; False where it was the same already."""
    values = target.written()
    for name in ("tls", "credential", "limits", "options"):
        values[name] = None if values[name] is None else dump(values[name])
    return bool(await conn.scalar(PUT_TARGET, values))


async def remove_target(conn: AsyncConnection, name: str, tenant: str | None) -> bool:
    """Take a target away; False where there was none."""
    return bool(await conn.scalar(REMOVE_TARGET, {"name": name, "tenant": tenant}))


async def used_by(conn: AsyncConnection, target: str) -> list[str]:
    """The tools in service whose adapter works at a target of this name."""
    return list((await conn.execute(USED_BY, {"target": target})).scalars())


async def tenant(conn: AsyncConnection, tenant_id: str) -> Tenant | None:
    """A tenant's limits."""
    row = (await conn.execute(TENANT, {"tenant_id": tenant_id})).mappings().one_or_none()
    return None if row is None else Tenant(**row)


async def tenant_ids(conn: AsyncConnection) -> list[str]:
    """Every tenant, for an owner's connection."""
    return list((await conn.execute(TENANT_IDS)).scalars())


async def put_tenant(conn: AsyncConnection, tenant_id: str, limits: Limits) -> bool:
    """Make a tenant, or change what is given of it; whether it was made."""
    values = asdict(limits) | {"tenant_id": tenant_id, "unset": list(limits.unset)}
    return bool(await conn.scalar(PUT_TENANT, values))


async def grants(conn: AsyncConnection, tenant_id: str) -> list[Grant]:
    """Who of a tenant may call what."""
    rows = await conn.execute(GRANTS, {"tenant_id": tenant_id})
    return [Grant(**row) for row in rows.mappings()]


async def grant(conn: AsyncConnection, tenant_id: str, made: Sequence[Grant]) -> int:
    """Add grants; how many the tenant did not have, or had with another condition."""
    return await _each_grant(conn, ADD_GRANT, tenant_id, made)


async def revoke(conn: AsyncConnection, tenant_id: str, lost: Sequence[Grant]) -> int:
    """Take grants away; how many the tenant had."""
    return await _each_grant(conn, REMOVE_GRANT, tenant_id, lost)


async def _each_grant(
    conn: AsyncConnection, statement: TextClause, tenant_id: str, grants: Sequence[Grant]
) -> int:
    changed = 0
    for one in grants:
        values = asdict(one) | {"tenant_id": tenant_id}
        changed += (await conn.execute(statement, values)).rowcount
    return changed


async def announce(conn: AsyncConnection) -> None:
    """Tell every replica that tools, tenants or grants changed, on the caller's commit.

    Rare, so it may ride in the transaction.
    """
    await conn.execute(ANNOUNCE, {"channel": CATALOG})


async def queued(conn: AsyncConnection, tenant_id: str, *, limit: int) -> int:
    """How many of a tenant's commands wait, counted up to a limit."""
    return int(await conn.scalar(QUEUED, {"tenant_id": tenant_id, "limit": limit}) or 0)

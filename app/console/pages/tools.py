"""Tools and tenant: what may be called, how it does, its targets, limits, grants and holds."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response

from adapters.targets import Target
from app.catalog import store as catalog
from app.catalog.policy import Tool
from app.commands.holds import in_force
from app.commands.store import figures
from app.commands.store.figures import Done
from app.commands.store.search import WINDOW
from app.console import live
from app.console.pages import holds
from app.console.parts import Console, Page, session_of, who_of
from app.edges.auth.scopes import ADMINISTER, OPERATE
from app.identity import Identity
from app.postgres.engine import tenant_transaction

EVERY_S: Final = 5.0
"""How often figures are made anew for who looks at them: they read thousands of rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A tool with its tenant's figures; `tool` is None where it is in service no more, or not for
    whoever looks.
    """

    path: str
    tool: Tool | None
    queued: int
    in_flight: int
    hour: Done | None
    day: Done | None


def router(console: Console) -> APIRouter:
    """The page with its live part; holds are below it."""
    made = APIRouter(include_in_schema=False)

    async def part(request: Request) -> live.Part:
        found = await _read(console, who_of(request))
        session = session_of(request)
        html = console.render("tools_part.html", session=session, window=WINDOW, **found)
        return live.Part(html=html)

    @made.get("")
    async def tools(request: Request) -> Response:
        """The page."""
        first = await part(request)
        operator = OPERATE in who_of(request).scopes
        return console.page(request, "tools.html", part=first, operator=operator)

    @made.get("/live")
    async def followed(request: Request) -> Response:
        """The page, whenever it has changed."""
        return await live.stream(console, request, lambda: part(request), every_s=EVERY_S)

    holds.add(made, console)
    return made


async def _read(console: Console, who: Identity) -> dict[str, Any]:
    broker, tenant_id = console.broker, who.tenant_id
    visible = (await broker.catalog.visible(who)).tools
    now = datetime.now(UTC)
    admin = ADMINISTER in who.scopes
    async with tenant_transaction(broker.database.engine, tenant_id) as conn:
        hour = await figures.done(conn, tenant_id=tenant_id, since=now - timedelta(hours=1))
        day = await figures.done(conn, tenant_id=tenant_id, since=now - timedelta(days=1))
        queued = await figures.queued(conn, tenant_id=tenant_id)
        in_flight = await figures.in_flight(conn, tenant_id=tenant_id)
        tenant = await catalog.tenant(conn, tenant_id)
        grants = await catalog.grants(conn, tenant_id) if admin else []
        targets = await catalog.targets(conn) if admin else []
    known = {(one.tool, one.method): one for one in visible}
    paths = sorted({*known, *hour, *day, *queued, *in_flight})
    operator = OPERATE in who.scopes
    held = await in_force(broker.database.engine, tenant_id) if operator else []
    return {
        "rows": [
            Row(
                path="/".join(path),
                tool=known.get(path),
                queued=queued.get(path, 0),
                in_flight=in_flight.get(path, 0),
                hour=hour.get(path),
                day=day.get(path),
            )
            for path in paths
        ],
        "tenant": tenant,
        "queued": sum(queued.values()),
        "in_flight": sum(in_flight.values()),
        "grants": sorted(grants, key=lambda one: (one.subject_kind, one.subject, one.pattern)),
        "targets": [_shown(one) for one in targets],
        "holds": [holds.described(one) for one in held],
        "admin": admin,
        "operator": operator,
    }


def _shown(target: Target) -> dict[str, Any]:
    """A target without anything that could be a secret: of its address the host, of its credential
    the type.
    """
    return {
        "name": target.name,
        "kind": target.kind,
        "shared": target.tenant is None,
        "host": _host(target.address),
        "credential": (target.credential or {}).get("type"),
        "calls_max": target.limits.calls_max,
        "timeout_s": target.limits.timeout_s,
    }


def _host(address: str) -> str:
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        return parts.hostname or address.partition("?")[0]
    except ValueError:
        return ""


PAGE: Final = Page(
    name="tools",
    title="Tools",
    path="/tools",
    scopes=frozenset({OPERATE, ADMINISTER}),
    router=router,
)

"""Tools that adapters work for, put in force as an administrator does."""

from pathlib import Path
from typing import Any

import yaml

from app.catalog import file as catalog_file
from app.edges.parts import Parts
from app.intake.prepare import CallRequest
from app.postgres import migrate
from devstack.stack import Dsns

ECHO: dict[str, Any] = {
    "tool": "kind",
    "method": "echo",
    "description": "Echoes.",
    "input_schema": {"type": "object"},
    "adapter": {"kind": "echo", "target": "mirror"},
}
MIRROR: dict[str, Any] = {"name": "mirror", "kind": "echo"}


def offer(
    policy: dict[str, Any] | None = None,
    *,
    targets: list[dict[str, Any]] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A catalog file with one tool of an adapter, and its target."""
    tool = ECHO | more | ({} if policy is None else {"policy": policy})
    return {"tools": [tool], "targets": [MIRROR] if targets is None else targets}


async def put(
    database: Dsns, home: Path, catalog: dict[str, Any], *, broker: Parts | None = None
) -> dict[str, list[str]]:
    """Apply it; an app in this process knows of it at once."""
    path = home / "offered.yml"
    path.write_text(yaml.safe_dump(catalog))
    async with migrate.connected(database.owner) as engine:
        done = await catalog_file.apply(engine, catalog_file.parse(path), prune=False)
    if broker is not None:
        broker.catalog.forget()
    return done


def call(text: str = "hi", **more: Any) -> CallRequest:
    return CallRequest(tool="kind", method="echo", args={"text": text}, **more)

"""What a stream tells of the tools that its caller may call."""

import anyio

from app.edges.parts import Parts
from app.identity import Identity


async def tools_seen(broker: Parts, who: Identity) -> str:
    """A digest of what tools/list shows the caller; the same at each replica."""
    return (await broker.catalog.visible(who)).digest


async def tools_changed(broker: Parts, who: Identity, known: str) -> str:
    """Wait until what the caller sees is something else; returns its digest."""
    while True:
        changed = broker.catalog.changed
        seen = await tools_seen(broker, who)
        if seen != known:
            return seen
        with anyio.move_on_after(broker.settings.catalog_kept_s):  # it is old then
            await changed.wait()

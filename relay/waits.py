"""The pause between two looks of a loop."""

import asyncio


async def until(event: asyncio.Event, at_most_s: float) -> None:
    """Wait for an event, or for so many seconds."""
    try:
        async with asyncio.timeout(at_most_s):
            await event.wait()
    except TimeoutError:
        return

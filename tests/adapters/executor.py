"""An executor of the tests': what a call is made of, and what it hears of it."""

import asyncio
from typing import Any

from adapters.contract import AdapterCall
from adapters.targets import Target


class Heard:
    """A report that keeps what it hears, and can ask for the end."""

    def __init__(self) -> None:
        self.said: list[tuple[float | None, float | None, str | None]] = []
        self.runs: list[tuple[str, str, str]] = []
        self._cancelled = asyncio.Event()
        self._changed = asyncio.Condition()

    @property
    def cancel_requested(self) -> bool:
        return self._cancelled.is_set()

    async def until_cancelled(self) -> None:
        await self._cancelled.wait()

    async def progress(
        self, done: float | None = None, total: float | None = None, message: str | None = None
    ) -> None:
        self.said.append((done, total, message))
        async with self._changed:
            self._changed.notify_all()

    async def tell_run(self, name: str, status: str, link: str) -> None:
        self.runs.append((name, status, link))

    def cancel(self) -> None:
        self._cancelled.set()

    async def until_said(self, times: int = 1) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: len(self.said) >= times)


def call_of(target: Target, *, deadline_s: float | None = None, **fields: Any) -> AdapterCall:
    loop = asyncio.get_running_loop()
    given: dict[str, Any] = {
        "command_id": "0198f0a0-0000-7000-8000-000000000001",
        "tenant": "demo",
        "tool": "tool",
        "method": "method",
        "args": {},
        "mapping": {},
        "idempotency_key": "key-1",
        "deadline": None if deadline_s is None else loop.time() + deadline_s,
    }
    return AdapterCall(target=target, **(given | fields))

"""The work behind tools.yml: it ends when its caller says so, so no client races a clock."""

import asyncio
from collections import Counter, defaultdict
from typing import Any

from tests.edges.mcp.adapter import Serve, ToolError, Work

PERCENT = 25
"""What each job says of itself until it ends."""
SAY_S = 0.1


class Jobs:
    """Every job by its name, and how often it ran."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self._released: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    @property
    def tools(self) -> dict[str, Serve]:
        return {
            "interop/work": self._work,
            "interop/slow": self._work,
            "interop/tied": self._work,
            "interop/release": self._release,
        }

    async def _work(self, work: Work) -> Any:
        job = work.args["job"]
        self.runs[job] += 1
        released = self._released[job]
        while not released.is_set():
            if not await work.progress(PERCENT, job):
                raise ToolError({"code": "cancelled", "message": "stopped", "retryable": False})
            try:
                await asyncio.wait_for(released.wait(), SAY_S)
            except TimeoutError:
                continue
        return {"done": job}

    async def _release(self, work: Work) -> Any:
        self._released[work.args["job"]].set()
        return {"done": work.args["job"]}

"""The work behind tools.yml: it ends when its caller says so, so no client races a clock."""

import asyncio
from collections import Counter, defaultdict
from typing import Any

from tests.edges.mcp.adapter import Serve, ToolError, Work

PERCENT = 25
"""What each job says of itself until it ends."""
SAY_S = 0.1

ERRORS: dict[str, dict[str, Any]] = {
    "fails": {"message": "no such host"},
    "odd error": {"message": ["not", "a", "text"], "status": 7},
    "large error": {"message": "m" * 5000},
    "cancelled": {"message": "stopped"},
    "unknown": {"message": "cut off", "outcome_unknown": True},
}
RESULTS: dict[str, Any] = {
    "fits": {"done": "all"},
    "misfits": {"gone": "all"},
    "list": ["not", "an", "object"],
    "null": None,
    "large": {"done": "x" * 5000},
    "large misfit": {"gone": "x" * 5000},
    "native": {"mcp": {"content": [{"type": "text", "text": "native"}]}},
    "native misfit": {"mcp": {"content": [], "structuredContent": {"gone": 1}}},
    "native error": {
        "mcp": {
            "content": [{"type": "text", "text": "broken"}],
            "structuredContent": {"gone": 1},
            "isError": True,
        }
    },
}


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
            "interop/ends": self._ends,
            "interop/asked": self._release,
        }

    def release(self, job: str) -> None:
        """Let this job end."""
        self._released[job].set()

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

    async def _ends(self, work: Work) -> Any:
        how = work.args["how"]
        if how in ERRORS:
            raise ToolError({"code": how, "retryable": False, **ERRORS[how]})
        return RESULTS[how]

    async def _release(self, work: Work) -> Any:
        self.release(work.args["job"])
        return {"done": work.args["job"]}

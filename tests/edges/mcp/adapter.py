"""An adapter inside the test's process: claims what waits for it and reports over HTTP."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx2

POLL_S = 0.02

WAITING = """
    SELECT id, attempt, tool, method
      FROM commands
     WHERE state = 'queued' AND NOT held AND approval IS DISTINCT FROM 'pending'
       AND tool = ANY ($1)
     ORDER BY id
     LIMIT 100
"""


class ToolError(Exception):
    """The tool's own failure, in the shape of an error result."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error)
        self.error = error


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One claimed command."""

    id: UUID
    attempt: int
    args: dict[str, Any]
    http: httpx2.AsyncClient

    async def say(self, path: str, **body: Any) -> httpx2.Response:
        body["attempt"] = self.attempt
        return await self.http.post(f"/results/{self.id}{path}", json=body)

    async def progress(self, percent: float, message: str = "") -> bool:
        """Say how far it is; whether to go on."""
        answer = await self.say("/progress", stage="working", percent=percent, message=message)
        return answer.status_code == 200 and not answer.json()["cancel_requested"]


Serve = Callable[[Work], Awaitable[Any]]


@asynccontextmanager
async def serving(
    *, owner_dsn: str, http: httpx2.AsyncClient, tools: Mapping[str, Serve]
) -> AsyncGenerator[None]:
    """Serve `tool/method`s until the block ends."""
    conn = await asyncpg.connect(owner_dsn)
    runs: set[asyncio.Task[None]] = set()
    loop = asyncio.create_task(_poll(conn, http, tools, runs))
    try:
        yield
    finally:
        for one in (loop, *runs):
            one.cancel()
        await asyncio.gather(loop, *runs, return_exceptions=True)
        await conn.close()


async def _poll(
    conn: asyncpg.Connection,
    http: httpx2.AsyncClient,
    tools: Mapping[str, Serve],
    runs: set[asyncio.Task[None]],
) -> None:
    begun: set[tuple[UUID, int]] = set()
    names = sorted({path.partition("/")[0] for path in tools})
    while True:
        for row in await conn.fetch(WAITING, names):
            key = row["id"], row["attempt"]
            serve = tools.get(f"{row['tool']}/{row['method']}")
            if key not in begun and serve is not None:
                begun.add(key)
                run = asyncio.create_task(_run(http, *key, serve))
                runs.add(run)
                run.add_done_callback(runs.discard)
        await asyncio.sleep(POLL_S)


async def _run(http: httpx2.AsyncClient, command_id: UUID, attempt: int, serve: Serve) -> None:
    claim = {"attempt": attempt, "adapter": str(uuid4())}
    answer = await http.post(f"/results/{command_id}/claim", json=claim)
    if answer.status_code != 200:
        return
    work = Work(id=command_id, attempt=attempt, args=answer.json()["args"], http=http)
    try:
        await work.say("", status="ok", result=await serve(work))
    except ToolError as error:
        await work.say("", status="error", error=error.error)

"""A fast stand-in for EDA and its playbooks: reads mcp.commands, claims, has an effect, reports.

The effect is a line in a file, written after a granted claim and while its lease is young: an
adapter that was held up for longer than that must not begin.
"""

import asyncio
import os
import time
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import uuid4

import httpx
import orjson
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError

from app.contract import COMMANDS

AT_ONCE = 16
CLAIM_TRIES_S = 3.0
WORD_TRIES_S = 20.0
BAD_TEXT = "bad"
FAILS_ONCE_TEXT = "fails once"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One delivery of a command."""

    id: str
    attempt: int
    method: str
    text: str
    lasts_s: float
    ordering_key: str | None


class Executor:
    """Runs each delivery that its claim grants."""

    def __init__(self, http: httpx.AsyncClient, urls: list[str], effects: int) -> None:
        self._http = http
        self._urls = urls
        self._effects = effects
        self._turn = count(os.getpid())
        self._room = asyncio.Semaphore(AT_ONCE)
        self._running = set[asyncio.Task[None]]()

    async def say(self, path: str, body: dict[str, Any], tries_s: float) -> httpx.Response | None:
        """POST to whichever app answers; None where none did in time."""
        until = time.monotonic() + tries_s
        while time.monotonic() < until:
            url = self._urls[next(self._turn) % len(self._urls)]
            try:
                answer = await self._http.post(f"{url}/results/{path}", json=body)
            except httpx.TransportError:
                await asyncio.sleep(0.1)
                continue
            if answer.status_code < 500:
                return answer
            await asyncio.sleep(0.2)
        return None

    async def take(self, record: ConsumerRecord[bytes, bytes]) -> None:
        """Claim; the work goes on after this returns."""
        body = orjson.loads(record.value or b"")
        job = Job(
            id=body["correlation_id"],
            attempt=body["attempt"],
            method=body["method"],
            text=body["args"]["text"],
            lasts_s=body["args"]["ms"] / 1000,
            ordering_key=body["ordering_key"],
        )
        run = f"executor-{os.getpid()}-{uuid4().hex[:8]}"
        await self._room.acquire()
        asked = time.monotonic()
        claim = {"attempt": job.attempt, "adapter": run}
        granted = await self.say(f"{job.id}/claim", claim, CLAIM_TRIES_S)
        answer = granted.json() if granted is not None else {}
        young = time.monotonic() - asked < answer.get("lease_s", 0) / 2
        if not answer.get("proceed") or not young:
            self._room.release()
            return
        line = {"id": job.id, "attempt": job.attempt, "key": job.ordering_key, "run": run}
        os.write(self._effects, orjson.dumps(line) + b"\n")
        task = asyncio.create_task(self._work(job))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _work(self, job: Job) -> None:
        try:
            await asyncio.sleep(job.lasts_s)
            body: dict[str, Any] = {"stage": "working", "percent": 50, "attempt": job.attempt}
            said = await self.say(f"{job.id}/progress", body, CLAIM_TRIES_S)
            stop = said is not None and said.json().get("cancel_requested", False)
            bad = job.text == BAD_TEXT or (job.text == FAILS_ONCE_TEXT and job.attempt == 1)
            word: dict[str, Any] = {"status": "ok", "result": {"text": job.text}}
            if stop or bad:
                word = {"status": "error", "error": {"message": "stopped" if stop else "bad"}}
            await self.say(job.id, word | {"attempt": job.attempt}, WORD_TRIES_S)
        finally:
            self._room.release()


async def serve() -> None:
    """Consume for ever; what was polled is claimed before its offsets are committed."""
    effects = os.open(os.environ["EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
    async with httpx.AsyncClient(headers=headers, timeout=3, trust_env=False) as http:
        executor = Executor(http, os.environ["URLS"].split(","), effects)
        while True:
            consumer = AIOKafkaConsumer(
                COMMANDS,
                bootstrap_servers=os.environ["KAFKA"],
                group_id="chaos",
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                session_timeout_ms=3000,
                heartbeat_interval_ms=500,
            )
            try:
                await consumer.start()
                while True:
                    polled = await consumer.getmany(timeout_ms=200, max_records=AT_ONCE)
                    records = [one for batch in polled.values() for one in batch]
                    await asyncio.gather(*(executor.take(one) for one in records))
                    if records:
                        await consumer.commit()
            except (KafkaError, OSError) as error:
                print(f"kafka is away: {error!r}", flush=True)  # noqa: T201 its log
                await asyncio.sleep(0.5)
            finally:
                await consumer.stop()


if __name__ == "__main__":
    asyncio.run(serve())

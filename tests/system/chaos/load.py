"""Callers that repeat each call with its key until it is accepted, and an operator who redrives."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

import httpx

from tests.system.chaos.executor import BAD_TEXT, FAILS_ONCE_TEXT

REDRIVEN_METHOD = "again"  # what may be done again, whatever became of it
KEYS = ("k1", "k2", "k3")
GIVE_UP_S = 60.0
DEADLINE_MS = 60_000
ONCE_DEADLINE_MS = 15_000


class Caller:
    """One caller; `accepted` is what it was promised."""

    def __init__(
        self,
        number: int,
        urls: list[str],
        token: str,
        random: Random,
        *,
        tools: Sequence[str] = ("trial",),
        slowness: float = 1,
    ) -> None:
        self._number = number
        self._tools = tools
        self._slowness = slowness  # of the executor: deadlines and pauses are so much longer
        self._urls = urls
        self._headers = {"Authorization": f"Bearer {token}", "Prefer": "respond-async"}
        self._random = random
        self.accepted: dict[str, str] = {}
        self.bodies: dict[str, dict[str, Any]] = {}
        self.counts = Counter[str]()
        self.wrong: list[str] = []

    async def run(self, until: float) -> None:
        """Call, repeat and cancel until the time is over; an unanswered call is seen through."""
        async with httpx.AsyncClient(headers=self._headers, timeout=4, trust_env=False) as http:
            number = 0
            while time.monotonic() < until:
                number += 1
                key = f"caller-{self._number}-{number}"
                self.bodies[key] = self._body()
                await self._see_through(http, key)
                luck = self._random.random()
                if luck < 0.15 and self.accepted:
                    await self._see_through(http, self._random.choice(list(self.accepted)))
                elif luck < 0.25 and key in self.accepted:
                    await self._cancel(http, self.accepted[key])
                await asyncio.sleep(self._slowness * self._random.uniform(0.02, 0.4))

    def _body(self) -> dict[str, Any]:
        method = self._random.choice(["again", "again", "once", "loose", "loose"])
        text = self._random.choice(["good"] * 8 + [BAD_TEXT, FAILS_ONCE_TEXT])
        key = self._random.choice([*KEYS, None])
        body: dict[str, Any] = {
            "tool": self._random.choice(self._tools),
            "method": method,
            "args": {"text": text, "ms": self._random.choice([0, 20, 100, 800])},
            "deadline_ms": int(self._slowness * DEADLINE_MS),
            "accept_async": self._random.random() < 0.2,
        }
        if method == "once":
            # What is unknown blocks its key until somebody tells: those behind it time out.
            deadline_ms = int(self._slowness * ONCE_DEADLINE_MS)
            body |= {"deadline_ms": deadline_ms, "accept_async": False}
            key = None if key is None else f"once-{key}-{self._random.randrange(20)}"
        return body if key is None else body | {"ordering_key": key}

    async def _see_through(self, http: httpx.AsyncClient, key: str) -> None:
        until = time.monotonic() + GIVE_UP_S
        while time.monotonic() < until:
            answer = await self._post(http, "/mcp/tools/call", self.bodies[key], key)
            if answer is None:
                continue
            if answer.status_code not in {200, 202}:
                self.wrong.append(f"{key}: {answer.status_code} {answer.text[:300]}")
                return
            found = answer.json()["correlation_id"]
            first = self.accepted.setdefault(key, found)
            if first != found:
                self.wrong.append(f"{key} is {first} and then {found}")
            return
        self.counts["given up"] += 1

    async def _cancel(self, http: httpx.AsyncClient, one: str) -> None:
        answer = await self._post(http, f"/commands/{one}/cancel", {"reason": "chaos"}, None)
        if answer is not None and answer.status_code not in {200, 202}:
            self.wrong.append(f"cancel of {one}: {answer.status_code} {answer.text[:300]}")

    async def _post(
        self, http: httpx.AsyncClient, path: str, body: dict[str, Any], key: str | None
    ) -> httpx.Response | None:
        headers = {} if key is None else {"Idempotency-Key": key}
        self.counts["requests"] += 1
        try:
            url = self._random.choice(self._urls)
            answer = await http.post(url + path, json=body, headers=headers)
        except httpx.TransportError:
            self.counts["no answer"] += 1
            await asyncio.sleep(0.1)
            return None
        if answer.status_code == 429:
            self.counts["queue full"] += 1
            await asyncio.sleep(0.5)
            return None
        if answer.status_code >= 500:
            self.counts[f"status {answer.status_code}"] += 1
            if answer.status_code == 500:  # a server that is killed answers 503 or nothing
                self.wrong.append(f"{path}: 500 {answer.text[:300]}")
            await asyncio.sleep(0.1)
            return None
        return answer


class Operator:
    """Redrives dead letters, at random, now and then one that has just gone."""

    def __init__(
        self, urls: list[str], token: str, random: Random, *, tools: Sequence[str] = ("trial",)
    ) -> None:
        self._urls = urls
        self._tools = tools
        self._headers = {"Authorization": f"Bearer {token}"}
        self._random = random
        self.counts = Counter[str]()
        self.wrong: list[str] = []

    async def run(self, until: float) -> None:
        """Look and redrive until the time is over."""
        async with httpx.AsyncClient(headers=self._headers, timeout=4, trust_env=False) as http:
            while time.monotonic() < until:
                with contextlib.suppress(httpx.TransportError):
                    await self._redrive(http, self._random.choice(self._tools), 1)
                await asyncio.sleep(self._random.uniform(0.2, 1))

    async def redrive_all(self) -> None:
        """Whatever is dead and may be done again, once, all at the same time."""
        async with httpx.AsyncClient(headers=self._headers, timeout=30, trust_env=False) as http:
            for tool in self._tools:
                await self._redrive(http, tool, 200)

    async def _redrive(self, http: httpx.AsyncClient, tool: str, at_most: int) -> None:
        url = f"{self._random.choice(self._urls)}/operator/dead-letters"
        answer = await http.get(url, params={"tool": tool, "limit": 200})
        self.counts[f"looked: {answer.status_code}"] += 1
        if answer.status_code not in {200, 503}:
            self.wrong.append(f"dead letters: {answer.status_code} {answer.text[:300]}")
        if answer.status_code != 200:
            return
        dead = [
            one["command_id"]
            for one in answer.json()["dead_letters"]
            if one["method"] == REDRIVEN_METHOD
        ]
        chosen = self._random.sample(dead, min(at_most, len(dead)))
        # Each twice at once: one of them finds it gone.
        answers = await asyncio.gather(
            *(http.post(f"{url}/{one}/redrive", json={"reason": "chaos"}) for one in chosen * 2),
            return_exceptions=True,
        )
        for one in answers:
            if isinstance(one, httpx.TransportError):
                continue
            if isinstance(one, BaseException):
                raise one
            if one.status_code not in {200, 409} and one.status_code <= 500:
                self.wrong.append(f"{one.request.url}: {one.status_code} {one.text[:300]}")
            self.counts[f"redrive: {one.status_code}"] += 1

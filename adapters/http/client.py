"""A call as one request, from its arguments to its end."""

import asyncio
from collections.abc import Mapping
from typing import Final

import httpx2

from adapters import tls
from adapters.authorization import headers as credential_headers
from adapters.authorization import renew
from adapters.contract import (
    AdapterCall,
    Known,
    Opening,
    Outcome,
    Report,
    Result,
    target_changed,
)
from adapters.http import bodies, documents, judging, polling
from adapters.http.requests import SAFE, Prepared, prepare
from adapters.http.sending import Wire

UNAUTHENTICATED: Final = 401
REVIEWED_S: Final = 60.0
"""How long a document counts that a target's operations are compared with."""


class HttpTarget:
    """Connections to one target, kept between calls."""

    def __init__(self, opening: Opening) -> None:
        self._target = opening.target
        self._secrets = opening.secrets
        self._wire: Wire | None = None
        self._opening = asyncio.Lock()
        self._digests = documents.Digests(opening, kept_s=REVIEWED_S)

    async def run(self, call: AdapterCall, report: Report) -> Outcome:
        """Send the request, and follow what the target accepts to its end."""
        prepared = prepare(call)
        await self._reviewed(call)
        wire = await self._open()
        answer, headers = await self._sent(call, prepared, wire)
        if answer.status == UNAUTHENTICATED and renew(self._target, self._secrets, call):
            answer, headers = await self._sent(call, prepared, wire)
        if polling.is_pending(answer):
            return await polling.Operation(wire, _polling(headers), call).follow(answer, report)
        known = judging.known(answer, call.mapping.get("statuses", {}))
        if known is not Known.DONE:
            raise judging.error(answer, known)
        return _result(call, answer)

    async def _reviewed(self, call: AdapterCall) -> None:
        """Refuse an operation that its document does not tell any more as it was reviewed."""
        expected: str | None = call.mapping.get("digest")
        if expected is None or documents.SOURCE not in self._target.options:
            return
        found = await self._digests.of(call.mapping)
        if found != expected:
            raise target_changed(documents.key_of(call.mapping), expected, found)

    async def close(self) -> None:
        """Close the connections."""
        if self._wire is not None:
            await self._wire.close()

    async def _sent(
        self, call: AdapterCall, prepared: Prepared, wire: Wire
    ) -> tuple[bodies.Answer, dict[str, str]]:
        shown = await credential_headers(self._target, self._secrets, call)
        headers = self._headers(call, prepared) | shown
        url = httpx2.URL(str(wire.base) + prepared.path)
        answer = await wire.send(
            prepared.method,
            url,
            headers,
            frozenset(shown),
            content=prepared.content,
            files=prepared.files,
        )
        return answer, headers

    async def _open(self) -> Wire:
        async with self._opening:
            if self._wire is None:
                trust = await tls.context(self._target.tls, self._secrets)
                self._wire = Wire(self._target, trust)
            return self._wire

    def _headers(self, call: AdapterCall, prepared: Prepared) -> dict[str, str]:
        given = {"accept": "application/json, */*;q=0.5", "accept-encoding": "identity"}
        given["user-agent"] = "mcp-broker"
        if prepared.method not in SAFE:
            name = self._target.options.get("idempotency_header", "idempotency-key")
            given[name.lower()] = call.idempotency_key
        if call.traceparent is not None:
            given["traceparent"] = call.traceparent
        return given | prepared.headers


def _polling(headers: Mapping[str, str]) -> dict[str, str]:
    """What goes along when the work is asked for: what says who asks, and not the work's own."""
    left_out = ("content-type", "content-length", "idempotency-key")
    return {name: one for name, one in headers.items() if name not in left_out}


def _result(call: AdapterCall, answer: bodies.Answer) -> Result:
    found = bodies.result(answer)
    if call.mapping.get("result", "body") == "body":
        return found
    value = {"status": answer.status, "headers": dict(answer.headers), "body": found.value}
    return Result(value=value, content=found.content)

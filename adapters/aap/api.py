"""The controller's API: one request, and what is known of its effect."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

import httpx2
import orjson

from adapters import tls
from adapters.authorization import headers as credential_headers
from adapters.authorization import renew
from adapters.contract import (
    RESULT_UNREADABLE,
    TARGET_LOST,
    AdapterCall,
    CallFailedError,
    Known,
    Opening,
)
from adapters.http import judging
from adapters.http.bodies import Answer
from adapters.http.sending import Wire

UNAUTHENTICATED: Final = 401
ANSWER_S: Final = 60.0
"""A request, of which a job has many, must not wait for a connection that leads nowhere."""


class Api:
    """Requests of one call, or of an import, at one controller."""

    def __init__(self, opening: Opening, wire: Wire, call: AdapterCall | None) -> None:
        self._opening = opening
        self._wire = wire
        self._call = call
        # A platform gateway serves the controller below a path; ansible-rulebook tells so, too.
        address = str(wire.base)
        self._is_gateway = address.count("/") > 2  # noqa: PLR2004 those of https://
        self._root = f"{address}/v2" if self._is_gateway else f"{address}/api/v2"

    async def get(self, path: str, **asked: Any) -> dict[str, Any]:
        """What stands at a path below the API's.

        Raises:
            CallFailedError: as `_asked`.
        """
        return await self._asked("GET", f"{path}?{urlencode(asked)}" if asked else path)

    async def every(self, path: str, **asked: Any) -> list[dict[str, Any]]:
        """All results of a list, page for page."""
        found: list[dict[str, Any]] = []
        for page in range(1, PAGES_MAX + 1):
            more = {"page": page} if page > 1 else {}
            said = await self.get(path, page_size=PAGE, **asked, **more)
            found += said["results"]
            if not said.get("next"):
                break
        return found

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Have it done.

        Raises:
            CallFailedError: it is refused, or nobody knows.
        """
        return await self._asked("POST", path, body)

    def link(self, job: Mapping[str, Any]) -> str:
        """Where a person sees a job."""
        kind = "workflow" if job.get("type") == "workflow_job" else "playbook"
        base = self._wire.base
        if self._is_gateway:
            origin = f"{base.scheme}://{base.netloc.decode()}"
            return f"{origin}/execution/jobs/{kind}/{job['id']}/output"
        return f"{base}/#/jobs/{kind}/{job['id']}"

    async def _asked(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        answer = await self._sent(method, path, body)
        target, secrets = self._opening.target, self._opening.secrets
        if answer.status == UNAUTHENTICATED and renew(target, secrets, self._call):
            answer = await self._sent(method, path, body)
        known = judging.known(answer, {})
        if known is not Known.DONE:
            raise judging.error(answer, known)
        value = answer.json() if answer.body else {}
        if not isinstance(value, dict) or not answer.whole:
            words = f"The controller's answer to {method} {path} is no JSON object of our bounds."
            raise CallFailedError(Known.UNKNOWN, RESULT_UNREADABLE, words)
        return value

    async def _sent(self, method: str, path: str, body: Mapping[str, Any] | None) -> Answer:
        opening = self._opening
        shown = await credential_headers(opening.target, opening.secrets, self._call)
        headers = {"accept": "application/json", "user-agent": "mcp-broker"} | shown
        content = None
        if body is not None:
            headers["content-type"] = "application/json"
            content = orjson.dumps(body)
        url = httpx2.URL(f"{self._root}/{path}")
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._wire.send(
                    method, url, headers, frozenset(shown), content=content
                )
        except TimeoutError:
            words = f"The controller did not answer {method} {path} in {ANSWER_S:g} s."
            raise CallFailedError(Known.UNKNOWN, TARGET_LOST, words) from None


PAGE: Final = 200
PAGES_MAX: Final = 50


async def wire_of(opening: Opening) -> Wire:
    """Connections to a controller."""
    trust = await tls.context(opening.target.tls, opening.secrets)
    return Wire(opening.target, trust)

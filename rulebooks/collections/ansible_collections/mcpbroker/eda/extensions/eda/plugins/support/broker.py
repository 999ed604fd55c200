"""The results API as sources speak it: reports, said again while the broker is away."""

import asyncio
import logging
import runpy
import ssl
from pathlib import Path
from typing import Any

import aiohttp

logger = logging.getLogger("mcpbroker.eda.control")

TRIES = 8
TRANSIENT = frozenset({401, 408, 429, 500, 502, 503, 504})
CONNECTION = runpy.run_path(
    str(Path(__file__).parents[4] / "plugins" / "module_utils" / "connection.py")
)


class Reporter:
    """A source's way to the broker."""

    def __init__(self, args: dict[str, Any]) -> None:
        """By a source's options, each of which the environment may give instead."""
        self._broker = CONNECTION["Broker"](args)

    async def report(self, correlation_id: str, body: dict[str, Any]) -> None:
        """Give the broker a result; one that it does not take is its own to record."""
        await self._said(f"/{correlation_id}", body, f"report of command {correlation_id}")

    async def run(self, correlation_id: str, attempt: int, body: dict[str, Any]) -> None:
        """Tell how a run fares."""
        about = f"word about a run of command {correlation_id}"
        await self._said(f"/{correlation_id}/run", body | {"attempt": attempt}, about)

    async def batch(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Many reports at once; the answer to each has its `status`."""
        said = await self._said("/batch", {"items": items}, f"{len(items)} reports")
        return (said or {}).get("items") or [{"status": 503} for _ in items]

    async def _said(self, path: str, body: dict[str, Any], about: str) -> dict[str, Any] | None:
        problem: object = None
        limit = aiohttp.ClientTimeout(total=15)
        async with aiohttp.ClientSession(timeout=limit) as session:
            for n in range(TRIES):
                headers = {"Authorization": f"Bearer {self._bearer()}"}
                url = f"{self._broker.url}/results{path}"
                try:
                    sent = session.post(url, json=body, headers=headers, ssl=self._tls())
                    async with sent as answer:
                        if answer.status not in TRANSIENT:
                            return await answer.json() if answer.status < 300 else None
                        problem = f"it answered {answer.status}"
                except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
                    problem = repr(error)
                await asyncio.sleep(min(10.0, 0.25 * 2**n))
        logger.error("the broker took no %s: %s", about, problem)
        return None

    def _bearer(self) -> str:
        try:
            return self._broker.bearer()
        except CONNECTION["NoTokenError"]:  # its file is being renewed
            return self._broker.token or ""

    def _tls(self) -> ssl.SSLContext | bool:
        broker = self._broker
        if not broker.ca_file and not broker.client_cert:
            return True
        context = ssl.create_default_context(cafile=broker.ca_file)
        if broker.client_cert:
            context.load_cert_chain(broker.client_cert, broker.client_key)
        return context

"""The results API, as the worker speaks it: batches only, with a token that may be renewed."""

import ssl
from collections.abc import Sequence
from typing import Any, Final

import httpx
import orjson

from app.config.worker import WorkerSettings

PATH: Final = "/results/batch"
ITEMS_MAX: Final = 500
TIMEOUT_S: Final = 15.0
"""Of one request."""


class ApiAwayError(Exception):
    """The app does not answer, or not now: what was said may be said again."""


class ApiRefusedError(Exception):
    """The app takes no such request, however often it is sent."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"the app answered {status}: {words}")
        self.status = status


def headers(settings: WorkerSettings) -> dict[str, str]:
    """What a request carries; the token's file is read each time.

    Raises:
        ApiAwayError: there is no token to be read.
    """
    try:
        if settings.token_file is not None:
            token = settings.token_file.read_text(encoding="utf-8").strip()
        elif settings.token is not None:
            token = settings.token.get_secret_value()
        else:
            raise ApiAwayError("set MCP_BROKER_TOKEN_FILE or MCP_BROKER_TOKEN")
    except OSError as error:
        raise ApiAwayError(f"the token cannot be read: {error}") from error
    return {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


def options(settings: WorkerSettings) -> dict[str, Any]:
    """Of both clients. The token is for this address: no redirect is followed, no proxy asked."""
    cafile = settings.cafile
    verify = True if cafile is None else ssl.create_default_context(cafile=cafile)
    return {
        "base_url": settings.url.rstrip("/"),
        "verify": verify,
        "timeout": TIMEOUT_S,
        "trust_env": False,
        "follow_redirects": False,
    }


def answers(response: httpx.Response, asked: int) -> list[dict[str, Any]]:
    """The items of an answer, in the order of what was asked.

    Raises:
        ApiAwayError, ApiRefusedError
    """
    if response.status_code in {400, 413, 422}:
        raise ApiRefusedError(response.status_code, response.text[:300])
    if response.status_code != 200:  # noqa: PLR2004
        raise ApiAwayError(f"the app answered {response.status_code}: {response.text[:300]}")
    try:
        items = orjson.loads(response.content)["items"]
    except (KeyError, TypeError, ValueError) as error:
        raise ApiAwayError(f"what answers is not the app: {error!r}") from error
    if len(items) != asked:
        raise ApiAwayError("what answers is not the app: it has another number of items")
    return items


class ResultsApi:
    """The client of the event loop."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._http = httpx.AsyncClient(**options(settings))

    async def batch(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Say many things at once; each has its own answer.

        Raises:
            ApiAwayError, ApiRefusedError
        """
        body = orjson.dumps({"items": items})
        try:
            response = await self._http.post(PATH, content=body, headers=headers(self._settings))
        except httpx.TransportError as error:
            raise ApiAwayError(f"the app is not reached: {error!r}") from error
        return answers(response, len(items))

    async def close(self) -> None:
        """Let go of its connections."""
        await self._http.aclose()


class BlockingApi:
    """The client of the thread that keeps leases."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._http = httpx.Client(**options(settings))

    def batch(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """As `ResultsApi.batch`."""
        body = orjson.dumps({"items": items})
        try:
            response = self._http.post(PATH, content=body, headers=headers(self._settings))
        except httpx.TransportError as error:
            raise ApiAwayError(f"the app is not reached: {error!r}") from error
        return answers(response, len(items))

    def close(self) -> None:
        """Let go of its connections."""
        self._http.close()

"""The automation controller's API, as sources speak it: one session, one way to say what failed.

The address and the credentials are ansible-rulebook's own (--controller-url and so on).
"""

import asyncio
import json
import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp
from ansible_rulebook.job_template_runner import job_template_runner as controller

TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
BODY_CHARS_MAX = 1500


class AwayError(RuntimeError):
    """The controller does not answer, or says that it cannot now."""


class RefusedError(RuntimeError):
    """The controller answers, and does not take the request."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """A session with the controller that ansible-rulebook launches on."""

    Away, Refused = AwayError, RefusedError

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    @property
    def is_there(self) -> bool:
        """Whether ansible-rulebook was given a controller."""
        return controller.host.startswith("http")

    async def get(self, path: str, **params: Any) -> dict[str, Any]:
        """What stands at a path below the API's, or at an address of the controller's."""
        return await self._request("GET", path, (200,), params=params)

    async def post(
        self, path: str, body: Mapping[str, Any] | None = None, *, fine: tuple[int, ...]
    ) -> dict[str, Any]:
        """Have it done; the answer.

        Raises:
            AwayError: it may be tried again.
            RefusedError: it is refused.
        """
        return await self._request("POST", path, fine, json=body)

    def link(self, job: Mapping[str, Any]) -> str:
        """Where a person sees a job."""
        kind = "workflow" if job.get("type") == "workflow_job" else "playbook"
        host = controller.host.rstrip("/")
        if not _is_gateway():
            return f"{host}/#/jobs/{kind}/{job['id']}"
        return f"{'/'.join(host.split('/')[:3])}/execution/jobs/{kind}/{job['id']}/output"

    async def close(self) -> None:
        """End the session."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _request(
        self, method: str, path: str, fine: tuple[int, ...], **given: Any
    ) -> dict[str, Any]:
        url = path if path.startswith("http") else controller.host + _api() + path
        try:
            async with self._opened().request(method, url, ssl=_tls(), **given) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise AwayError(f"the controller does not answer: {error!r}") from error
        said = f"the controller answered {answer.status} to {method} {answer.url.path}"
        said += f": {text[:BODY_CHARS_MAX]}" if text and answer.status < 500 else ""
        if answer.status in TRANSIENT:
            raise AwayError(said)
        if answer.status not in fine:
            raise RefusedError(said, answer.status)
        try:
            return json.loads(text or "{}")
        except ValueError:  # a proxy's page
            raise AwayError(f"{said[:200]}, which is no JSON") from None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Authorization": f"Bearer {controller.token}"} if controller.token else {}
            auth = None
            if not controller.token and controller.username:
                auth = aiohttp.BasicAuth(controller.username, controller.password)
            limit = aiohttp.ClientTimeout(total=30)
            self._session = aiohttp.ClientSession(headers=headers, auth=auth, timeout=limit)
        return self._session


def _is_gateway() -> bool:
    # As ansible-rulebook does: a host with a path is a gateway's.
    return controller.host.rstrip("/").count("/") > 2


def _api() -> str:
    return "v2/" if _is_gateway() else "api/v2/"


def _tls() -> ssl.SSLContext | bool:
    verify = (controller.verify_ssl or "yes").lower()
    if verify in {"no", "false"}:
        return False
    if verify in {"yes", "true"}:
        return True
    return ssl.create_default_context(cafile=controller.verify_ssl)

"""One exchange with a target: its connection, its redirects, and what a broken one means."""

import ssl
from collections.abc import Mapping
from typing import Any, Final

import httpx2

from adapters import cookies
from adapters.contract import (
    TARGET_LOST,
    TARGET_REFUSED,
    TARGET_UNAVAILABLE,
    CallFailedError,
    Known,
)
from adapters.http.bodies import Answer, read
from adapters.http.requests import SAFE
from adapters.targets import Target

REDIRECTS_MAX: Final = 5
SEE_OTHER: Final = 303
KEEP_METHOD: Final = (307, 308)
MOVED: Final = (301, 302, SEE_OTHER, *KEEP_METHOD)
BEFORE: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
"""The request was not sent."""
OWN: Final = ("authorization", "cookie", "idempotency-key", "proxy-authorization")
"""Headers that no other host gets."""


class Wire:
    """Connections to one target."""

    def __init__(self, target: Target, trust: ssl.SSLContext) -> None:
        self._target = target
        self.base = httpx2.URL(target.address.rstrip("/"))
        bounds = target.limits
        self._client = httpx2.AsyncClient(
            verify=trust,
            timeout=httpx2.Timeout(None, connect=bounds.connect_s),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=bounds.calls_max),
            cookies=cookies.none(),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def send(
        self,
        method: str,
        url: httpx2.URL,
        headers: Mapping[str, str],
        secret_headers: frozenset[str] = frozenset(),
        **body: Any,
    ) -> Answer:
        """Send, and follow redirects that stay at the target.

        Raises:
            CallFailedError: it could not be sent, no whole answer came, or it leads elsewhere.
        """
        for _ in range(REDIRECTS_MAX):
            answer = await self._exchange(method, url, headers, body)
            location = answer.headers.get("location")
            if answer.status not in MOVED or location is None:
                return answer
            if answer.status == SEE_OTHER:
                method, body = "GET", {}
            elif answer.status not in KEEP_METHOD and method not in SAFE:
                raise _elsewhere("It redirects a request that is not to be repeated.")
            url = self.within(answer.url, location)
            if not self.is_own(url):
                hidden = {*OWN, *secret_headers}
                headers = {name: one for name, one in headers.items() if name not in hidden}
        raise _elsewhere("It redirects without end.")

    def within(self, at: httpx2.URL, location: str) -> httpx2.URL:
        """Where a location leads to, if that is the target or a host that it lists.

        Raises:
            CallFailedError: it is not.
        """
        try:
            url = at.join(location)
        except (httpx2.InvalidURL, ValueError):
            raise _elsewhere("It leads to an address that is none.") from None
        if self.is_own(url):
            return url
        if url.scheme == "https" and url.host in self._target.allowed_hosts:
            return url
        raise _elsewhere(f"It leads to {url.host}, which the target does not allow.")

    def is_own(self, url: httpx2.URL) -> bool:
        """Whether this is the target's origin."""
        return (url.scheme, url.host, url.port) == (
            self.base.scheme,
            self.base.host,
            self.base.port,
        )

    async def _exchange(
        self, method: str, url: httpx2.URL, headers: Mapping[str, str], body: Mapping[str, Any]
    ) -> Answer:
        name = self._target.tls.server_name
        extensions = {} if name is None else {"sni_hostname": name}
        try:
            async with self._client.stream(
                method, url, headers=headers, extensions=extensions, **body
            ) as response:
                return await read(response, self._target.limits.result_bytes_max)
        except BEFORE as error:
            words = f"The target cannot be reached ({_name(error)})."
            raise CallFailedError(Known.NOT_DONE, TARGET_UNAVAILABLE, words) from None
        except httpx2.HTTPError as error:
            words = f"The target was lost before it had answered ({_name(error)})."
            raise CallFailedError(Known.UNKNOWN, TARGET_LOST, words) from None


def _name(error: Exception) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _elsewhere(words: str) -> CallFailedError:
    return CallFailedError(Known.REFUSED, TARGET_REFUSED, words)

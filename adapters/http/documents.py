"""An OpenAPI document's text: where it is fetched, and as what it is read."""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import httpx2
import orjson
import yaml

from adapters import tls
from adapters.authorization import headers as credential_headers
from adapters.contract import TARGET_UNAVAILABLE, CallFailedError, Known, Opening
from adapters.http import judging
from adapters.http.openapi import Operation, operations
from adapters.http.pointers import OpenApiError
from adapters.http.sending import Wire

BYTES_MAX: Final = 32 << 20
SOURCE: Final = "openapi"
"""The target's option that says where its document is."""


DEPTH_MAX: Final = 200


class _Loader(yaml.CSafeLoader):
    """YAML that is JSON: a date stays the text that was written."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read(raw: bytes) -> Any:
    """A document of its bytes.

    Raises:
        OpenApiError: it is neither JSON nor YAML.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        pass
    try:
        _bound(raw)
        return yaml.load(raw, Loader=_Loader)  # noqa: S506 a subclass of a safe loader
    except OpenApiError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise OpenApiError(f"the document is neither JSON nor YAML: {error}") from error


def _bound(raw: bytes) -> None:
    """An alias of an alias is how a short text becomes gigabytes; depth is what parsers break at.

    Raises:
        OpenApiError: it has either.
    """
    depth = 0
    for event in yaml.parse(raw, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise OpenApiError("the document has YAML aliases (*name): write them out")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH_MAX:
            raise OpenApiError(f"the document is nested deeper than {DEPTH_MAX} levels")


async def fetched(opening: Opening, url: str) -> bytes:
    """The document at a URL; the target's credential is shown at the target's origin only.

    Raises:
        CallFailedError: it cannot be had.
    """
    target = opening.target
    limits = replace(target.limits, result_bytes_max=BYTES_MAX)
    wire = Wire(
        replace(target, address=url, limits=limits), await tls.context(target.tls, opening.secrets)
    )
    own = _origin(url) == _origin(target.address)
    headers = {"accept": "application/json, application/yaml, */*;q=0.5"}
    shown = await credential_headers(target, opening.secrets, None) if own else {}
    try:
        async with asyncio.timeout(target.limits.timeout_s):
            sent = headers | {"accept-encoding": "identity"} | shown
            answer = await wire.send("GET", httpx2.URL(url), sent, frozenset(shown))
    except TimeoutError:
        raise _unavailable(url, "it took too long") from None
    finally:
        await wire.close()
    if judging.known(answer, {}) is not Known.DONE or not answer.whole:
        why = f"status {answer.status}" if answer.whole else f"it has over {BYTES_MAX} bytes"
        raise _unavailable(url, why)
    return answer.body


class Digests:
    """The digests of a target's operations as its document has them, kept for a while."""

    def __init__(self, opening: Opening, *, kept_s: float) -> None:
        self._opening = opening
        self._kept_s = kept_s
        self._asking = asyncio.Lock()
        self._read_at: float | None = None
        self._text = b""
        self._digests: Mapping[str, str] = {}

    async def of(self, mapping: Mapping[str, Any]) -> str | None:
        """The digest of a mapping's operation now; None where there is none.

        Raises:
            CallFailedError: the document cannot be read now.
        """
        url: str = self._opening.target.options[SOURCE]
        async with self._asking:
            now = asyncio.get_running_loop().time()
            if self._read_at is None or now - self._read_at > self._kept_s:
                raw = await fetched(self._opening, url)
                text = hashlib.sha256(raw).digest()
                if text != self._text:
                    try:  # of megabytes it takes seconds
                        self._digests = await asyncio.to_thread(_digests, raw)
                    except OpenApiError as error:
                        raise _unavailable(url, str(error)) from None
                    self._text = text
                self._read_at = now
        return self._digests.get(key_of(mapping))


def key_of(mapping: Mapping[str, Any]) -> str:
    """What an operation is known by."""
    return f"{str(mapping.get('method')).upper()} {mapping.get('path')}"


def _digests(raw: bytes) -> dict[str, str]:
    made = [one.mapping for one in operations(read(raw)) if isinstance(one, Operation)]
    return {key_of(one): one["digest"] for one in made}


def _origin(url: str) -> tuple[str, str, int | None]:
    found = httpx2.URL(url)
    return found.scheme, found.host, found.port


def _unavailable(url: str, why: str) -> CallFailedError:
    words = f"The OpenAPI document at {url} cannot be read: {why}; nothing was done."
    return CallFailedError(Known.NOT_DONE, TARGET_UNAVAILABLE, words)

"""One POST to a place that somebody else named: HTTP/1.1, to an address that was looked at.

The name is resolved here, each address is judged, and the connection goes to one that was found
good, so that no second look-up can lead it elsewhere (DNS rebinding). TLS and the Host header have
the name. No redirect is followed, no proxy is asked, no connection is kept, and of the answer only
so much is read as is asked for.
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import httptools

from app.webhooks.addresses import Address, BadUrlError, Network, Place, place_of, refusal

HEAD_BYTES_MAX: Final = 64 << 10
"""Of an answer's status line and headers."""
CHUNK: Final = 16 << 10
CONNECT_S: Final = 5.0
"""To one address; then the next."""
ADDRESSES_MAX: Final = 4
LOOKUPS_MAX: Final = 8
CLOSE_S: Final = 1.0


class PostFailedError(Exception):
    """No answer came; `kind` is what a metric and a receiver's operator may be told."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back, up to the bytes that were asked for."""

    status: int
    retry_after: str | None
    body: bytes


@dataclass(slots=True)
class _Parsed:
    """What httptools has told of an answer."""

    body_max: int
    status: int = 0
    retry_after: str | None = None
    head_done: bool = False
    done: bool = False
    body: bytearray = field(default_factory=bytearray)
    parser: Any = None

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self.retry_after = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()
        self.head_done = self.status >= 200  # noqa: PLR2004 what is below comes before the answer

    def on_body(self, part: bytes) -> None:
        self.body += part[: self.body_max - len(self.body)]

    def on_message_complete(self) -> None:
        self.done = self.head_done


class Poster:
    """Sends POSTs to the networks that it may, and reports what became of each."""

    def __init__(
        self, *, networks: Sequence[Network], ca_file: Path | None, timeout_s: float
    ) -> None:
        self._networks = networks
        self._timeout_s = timeout_s
        self._context = ssl.create_default_context(cafile=ca_file)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        # A name server that hangs keeps a thread; those of the process's own pool are not ours.
        self._lookups = ThreadPoolExecutor(LOOKUPS_MAX, thread_name_prefix="webhook-names")

    def close(self) -> None:
        """Start no more look-ups."""
        self._lookups.shutdown(wait=False, cancel_futures=True)

    async def post(
        self, url: str, *, headers: Mapping[str, str], body: bytes, answer_bytes_max: int = 0
    ) -> Answer:
        """Send it, and wait for the answer's headers, and for its body where that is asked for.

        Raises:
            PostFailedError: there was no answer within the time, or nothing may be sent there.
        """
        try:
            place = place_of(url)
        except BadUrlError as error:
            raise PostFailedError("address_refused", str(error)) from error
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await self._addresses(place)
                reader, writer = await self._connected(place, found)
                try:
                    writer.write(_request(place, headers, body))
                    await writer.drain()
                    return await _answer(reader, answer_bytes_max)
                finally:
                    await _closed(writer)
        except TimeoutError as error:
            text = f"no answer within {self._timeout_s:g} s"
            raise PostFailedError("timeout", text) from error
        except (OSError, EOFError) as error:
            raise PostFailedError("connection_refused", _said(error)) from error

    async def _addresses(self, place: Place) -> list[Address]:
        """What the name means now, as far as something may be sent there."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._lookups,
                lambda: socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM),
            )
        except (OSError, UnicodeError) as error:
            text = f"the name cannot be resolved: {_said(error)}"
            raise PostFailedError("connection_refused", text) from error
        addresses = list(dict.fromkeys(ip_address(str(one[4][0])) for one in found))
        why: str | None = "the name has no address"
        good: list[Address] = []
        for address in addresses[:ADDRESSES_MAX]:
            refused = refusal(address, https=place.https, allowed=self._networks)
            if refused is None:
                good.append(address)
            else:
                why = refused
        if not good:
            raise PostFailedError("address_refused", why)
        return good

    async def _connected(
        self, place: Place, addresses: Sequence[Address]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        last: OSError = OSError("no address")
        for address in addresses:
            try:
                async with asyncio.timeout(CONNECT_S):
                    return await asyncio.open_connection(
                        str(address),
                        place.port,
                        ssl=self._context if place.https else None,
                        server_hostname=place.host if place.https else None,
                        limit=HEAD_BYTES_MAX,
                    )
            except ssl.SSLError as error:
                raise PostFailedError("tls_error", _said(error)) from error
            except OSError as error:  # a timeout of one address, too
                last = error
        raise last


def _request(place: Place, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"POST {place.path} HTTP/1.1", f"Host: {place.authority}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


async def _answer(reader: asyncio.StreamReader, body_max: int) -> Answer:
    parsed = _Parsed(body_max)
    parser = parsed.parser = httptools.HttpResponseParser(parsed)
    taken = 0
    while not parsed.done and not (parsed.head_done and len(parsed.body) >= body_max):
        part = await reader.read(CHUNK)
        if not part:
            break  # an answer without a length ends so
        taken += len(part)
        try:
            parser.feed_data(part)
        except httptools.HttpParserError as error:
            raise PostFailedError("bad_answer", "the answer is no HTTP") from error
        if not parsed.head_done and taken > HEAD_BYTES_MAX:
            text = f"the answer's headers have more than {HEAD_BYTES_MAX} bytes"
            raise PostFailedError("bad_answer", text)
    if not parsed.head_done:
        raise PostFailedError("connection_refused", "the connection was closed without an answer")
    return Answer(status=parsed.status, retry_after=parsed.retry_after, body=bytes(parsed.body))


async def _closed(writer: asyncio.StreamWriter) -> None:
    """Give the connection up without waiting for the other side's word."""
    writer.transport.abort()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await writer.wait_closed()


def _said(error: BaseException) -> str:
    """What went wrong, without the address: who may read this is not always who may know that."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not good: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__

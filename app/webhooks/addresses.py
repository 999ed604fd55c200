"""Where a webhook may go: the form of its URL, and the addresses that its host may have.

An address is judged when it is connected to, not when it is written down: a name can mean another
one by then (DNS rebinding).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

URL_MAX: Final = 2048
"""Characters of a URL."""
HOST_MAX: Final = 253
PORTS: Final = {"https": 443, "http": 80}
NAT64: Final = IPv6Network("64:ff9b::/96")
"""Behind it lies the IPv4 address of its last 32 bits (RFC 6052)."""

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


class BadUrlError(ValueError):
    """No webhook can go there; its text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A URL, taken apart."""

    https: bool
    host: str
    port: int
    path: str
    authority: str
    """As the Host header has it."""


def place_of(url: str) -> Place:
    """A URL as a place that a request can be sent to.

    Raises:
        BadUrlError: it is not of the form that webhooks take.
    """
    parts = _split(url)
    try:
        port = parts.port
    except ValueError as error:
        raise BadUrlError("the port is no number up to 65535") from error
    if port == 0:
        raise BadUrlError("the port is no number from 1 to 65535")
    host = parts.hostname or ""
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Place(
        https=parts.scheme == "https",
        host=host,
        port=port or PORTS[parts.scheme],
        path=path,
        authority=parts.netloc,
    )


def _split(url: str) -> SplitResult:
    if len(url) > URL_MAX:
        raise BadUrlError(f"it has more than {URL_MAX} characters")
    if not url.isascii() or not url.isprintable() or set(url) & set(' "<>\\^`{|}'):
        raise BadUrlError("it has a character that no URL has: write names in Punycode, the rest")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise BadUrlError("it is no URL") from error
    if parts.scheme not in PORTS:
        raise BadUrlError("it begins with neither https:// nor http://")
    if "@" in parts.netloc:
        raise BadUrlError("it has a user or password: a delivery is known by its signature")
    if "#" in url:
        raise BadUrlError("it has a fragment, which no server sees")
    host = parts.hostname or ""
    if not host or len(host) > HOST_MAX or "%" in host:
        raise BadUrlError("it names no host")
    return parts


def refusal(address: Address, *, https: bool, allowed: Sequence[Network]) -> str | None:
    """Why nothing may be sent to an address; None where it may.

    Without the networks that a setting allows, only https to addresses that are globally routable
    (IANA's special-purpose registries); within them, https and http.
    """
    if any(address.version == one.version and address in one for one in allowed):
        return None
    if not https:
        return "http goes to networks only that MCP_BROKER_WEBHOOK_NETWORKS names"
    if not _public(address):
        return "the address is not public, and not in MCP_BROKER_WEBHOOK_NETWORKS"
    return None


def _public(address: Address) -> bool:
    """Whether it is everybody's: no loopback, link-local, private, metadata, multicast one."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _public(inner)
        if address.teredo is not None or address.scope_id is not None:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def literal(host: str) -> Address | None:
    """The address that a host's name itself is; None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None

"""Adapters that are known by a client certificate: over TLS of our own, or told by a proxy."""

import base64
import binascii
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from ipaddress import ip_address
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)
from starlette.requests import HTTPConnection

from app.config import Settings
from app.edges.auth.scopes import RESULTS
from app.edges.auth.tokens import LoginFailedError, Reason, bound_tenants
from app.edges.connections import BoundedProtocol
from app.identity import Identity
from app.trust import CertificateClient

HEADER: Final = "client-cert"
CHAIN_HEADER: Final = "client-cert-chain"
CHAIN_MAX: Final = 5
HEADER_BYTES_MAX: Final = 32 << 10


class TlsProtocol(BoundedProtocol):
    """uvicorn's HTTP, with the peer's certificate in the scope as ASGI's TLS extension has it."""

    def on_message_begin(self) -> None:
        """Begin a request; the handshake has verified the certificate, if there is one."""
        super().on_message_begin()
        peer = self.transport.get_extra_info("ssl_object")
        der = None if peer is None else peer.getpeercert(binary_form=True)
        chain = [] if der is None else [ssl.DER_cert_to_PEM_cert(der)]
        extensions: dict[str, Any] = {"tls": {"client_cert_chain": chain}}
        self.scope["extensions"] = extensions  # pyright: ignore[reportGeneralTypeIssues]


def server_context(settings: Settings) -> ssl.SSLContext:
    """TLS 1.2 or newer; a client may show a certificate, and one that it shows must be good."""
    assert settings.tls_certfile is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls_certfile, settings.tls_keyfile)
    if settings.client_ca_file is not None:
        context.load_verify_locations(settings.client_ca_file)
        # Not required: callers with tokens come over the same port.
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


class Certificates:
    """Which certificate a request comes with, and whose it is."""

    def __init__(self, settings: Settings) -> None:
        self._clients = settings.certificate_clients
        self._proxies = settings.trusted_proxies
        self._authorities: Store | None = None
        if settings.client_ca_file is not None:
            pem = settings.client_ca_file.read_bytes()
            self._authorities = Store(x509.load_pem_x509_certificates(pem))

    def shown(self, connection: HTTPConnection) -> x509.Certificate | None:
        """The certificate of a request's client, verified; None if it shows none.

        The `Client-Cert` header of anyone but a trusted proxy is no certificate.

        Raises:
            LoginFailedError: it is not good (any more), or the proxy's header is malformed.
        """
        if self._authorities is None:
            return None
        try:
            tls = connection.scope.get("extensions", {}).get("tls") or {}
            if chain := tls.get("client_cert_chain"):
                # The handshake has verified its chain, maybe long ago.
                return current(x509.load_pem_x509_certificate(chain[0].encode()))
            if HEADER in connection.headers and self._from_proxy(connection):
                return self._told(connection)
        except ValueError as error:
            raise LoginFailedError(Reason.CERTIFICATE, why=error) from error
        return None

    def identity(self, certificate: x509.Certificate) -> Identity:
        """Whose it is.

        Raises:
            LoginFailedError: nobody's that the settings name.
        """
        names = names_of(certificate)
        for client in self._clients:
            if (client.subject or client.san) in names:
                return as_identity(client)
        raise LoginFailedError(Reason.CERTIFICATE, why=f"nobody has it: {sorted(names)}")

    def _from_proxy(self, connection: HTTPConnection) -> bool:
        if connection.client is None:
            return False
        try:
            peer = ip_address(connection.client.host)
        except ValueError:
            return False
        return any(peer in network for network in self._proxies)

    def _told(self, connection: HTTPConnection) -> x509.Certificate:
        """The certificate that a proxy names (RFC 9440), whose chain is verified here again.

        Raises:
            ValueError: it is malformed, or not by our authorities for a client.
        """
        assert self._authorities is not None
        values = connection.headers.getlist(HEADER)
        if len(values) != 1:
            raise ValueError("more than one Client-Cert")
        leaf = byte_sequence(values[0])
        chain = connection.headers.getlist(CHAIN_HEADER)
        between = [byte_sequence(one) for line in chain for one in line.split(",")]
        if len(between) > CHAIN_MAX:
            raise ValueError("the chain is too long")
        return verified(leaf, between, self._authorities)


def byte_sequence(text: str) -> x509.Certificate:
    """A certificate as a structured field's byte sequence (RFC 8941, 3.3.5).

    Raises:
        ValueError: it is none.
    """
    text = text.strip(" \t")
    if len(text) > HEADER_BYTES_MAX or not (text.startswith(":") and text.endswith(":")):
        raise ValueError("not a byte sequence")
    try:
        return x509.load_der_x509_certificate(base64.b64decode(text[1:-1], validate=True))
    except binascii.Error as error:
        raise ValueError("not base64") from error


def verified(
    leaf: x509.Certificate, between: Sequence[x509.Certificate], authorities: Store
) -> x509.Certificate:
    """Check the chain (RFC 5280) and that it is for a client.

    Raises:
        ValueError: it is not.
    """
    policy = (
        PolicyBuilder()
        .store(authorities)
        # Private authorities name clients by subject as often as by SAN, so none is asked for.
        .extension_policies(
            ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=ExtensionPolicy.permit_all()
        )
    )
    try:
        policy.build_client_verifier().verify(leaf, list(between))
    except VerificationError as error:
        raise ValueError(str(error)) from error
    try:
        uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return leaf
    if ExtendedKeyUsageOID.CLIENT_AUTH not in uses:
        raise ValueError("not a client's certificate")
    return leaf


def current(certificate: x509.Certificate) -> x509.Certificate:
    """The certificate, within its time.

    Raises:
        ValueError: it is not.
    """
    now = datetime.now(UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise ValueError("not within its time")
    return certificate


def names_of(certificate: x509.Certificate) -> set[str]:
    """Its subject, and its alternative names with their kind before them."""
    names = {certificate.subject.rfc4514_string()} - {""}
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return names
    kinds = ((x509.DNSName, "DNS"), (x509.UniformResourceIdentifier, "URI"))
    for kind, prefix in (*kinds, (x509.RFC822Name, "email")):
        names |= {f"{prefix}:{value}" for value in extension.value.get_values_for_type(kind)}
    return names


def as_identity(client: CertificateClient) -> Identity:
    """What the settings give to a client that is known by certificate: an adapter's scope only."""
    return Identity(
        tenant_id=client.tenant,
        user_id=client.client_id,
        client_id=client.client_id,
        scopes=frozenset({RESULTS}),
        tenants=bound_tenants(client.tenant, client.tenants, None),
        tools=client.tools,
    )


def thumbprint(certificate: x509.Certificate) -> bytes:
    """SHA-256 of its DER form, which a bound token names (RFC 8705, 3.1)."""
    return sha256(certificate.public_bytes(Encoding.DER)).digest()

"""Whom a deployment trusts: token issuers, client certificates, Kafka's peers; settings only."""

import ssl
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from app.contract import Tenant, Text

DEV_ISSUER: Final = "https://dev-issuer.invalid"
"""The embedded stack's own issuer, whose key lies in a folder: trusted on loopback only."""

EVERY: Final = "*"
"""In a binding: every tenant that the issuer may speak for."""

Scope = Literal["tools", "results:write", "operator", "auditor", "admin"]
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
"""Signatures by asymmetric keys. With HS256 a public key would be the secret; `none` is none."""

Claim = Annotated[
    str, Field(min_length=1, description="A claim's name; a JSON Pointer if it begins with '/'.")
]
Names = tuple[str, ...]


class Binding(BaseModel):
    """What a client may do at most: for which tenants and tools it may speak."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenants: Names | None = Field(
        default=None, description='Tenants it speaks for; its own. ["*"]: all of its issuer.'
    )
    tools: Names | None = Field(
        default=None, description="Patterns of tool/method it speaks for; all."
    )


class TokenClient(Binding):
    """A client of an issuer whose tokens cannot carry its scopes and binding."""

    scopes: tuple[Scope, ...] | None = Field(
        default=None, description="In place of the token's scopes."
    )


class Issuer(BaseModel):
    """A token issuer that we trust, and which of its claims mean what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: str = Field(min_length=1, description="Exactly as in `iss`.")
    audience: str = Field(min_length=1, description="What `aud` must contain.")
    jwks_file: Path | None = Field(default=None, description="Keys from a file.")
    jwks_uri: str | None = Field(
        default=None, description="Keys from here; else by OIDC discovery."
    )
    ca_file: Path | None = Field(
        default=None, description="Authorities of its server, PEM; the system's."
    )
    algorithms: tuple[Algorithm, ...] = Field(
        default=("RS256", "ES256", "EdDSA"), min_length=1, description="Signatures we take."
    )
    token_type: str | None = Field(
        default=None, description="`typ` that a token must have, as at+jwt (RFC 9068); any."
    )

    tenant: Tenant | None = Field(default=None, description="All of its tokens are of this one.")
    tenant_claim: Claim = "tenant"
    tenant_map: dict[str, Tenant] = Field(
        default_factory=dict, description="Claim value to tenant; if given, no other value counts."
    )
    tenants: tuple[Tenant, ...] | None = Field(
        default=None, description="Tenants it may speak for; all."
    )
    user_claim: Claim = "sub"
    user_prefix: str = Field(
        default="", max_length=64, description="Before its users' names, to tell issuers apart."
    )
    groups_claim: Claim = "groups"
    scope_claim: Claim = "scope"
    scope_map: dict[str, tuple[Scope, ...]] = Field(
        default_factory=dict, description="Claim value (a role) to scopes; if given, no other."
    )
    scopes: tuple[Scope, ...] | None = Field(default=None, description="Scopes it may give; all.")
    client_claims: tuple[Claim, ...] = ("client_id", "azp")
    user_is_client: bool = Field(
        default=False,
        description="A token without a client's claim is the client of its user's name: for issuers"
        " whose users nobody can name after a client.",
    )
    tenants_claim: Claim = "tenants"
    tools_claim: Claim = "tools"
    clients: dict[str, TokenClient] = Field(
        default_factory=dict, description="Scopes and bindings by client id, over the token's."
    )

    @model_validator(mode="after")
    def relations(self) -> Self:
        """Refuse what could not be safe."""
        if self.jwks_file is not None and self.jwks_uri is not None:
            raise ValueError(f"issuer {self.issuer}: jwks_file or jwks_uri, not both")
        if self.jwks_file is None and not is_safe(self.jwks_uri or self.issuer):
            raise ValueError(
                f"issuer {self.issuer}: its keys come over https only (or from loopback):"
                " whoever can change them on the way can make tokens"
            )
        if self.tenant is not None and (self.tenants is not None or self.tenant_map):
            raise ValueError(f"issuer {self.issuer}: tenant stands alone, without tenants or a map")
        return self

    @property
    def may_speak_for(self) -> frozenset[str] | None:
        """The tenants of its tokens; None is any."""
        if self.tenant is not None:
            return frozenset({self.tenant})
        if self.tenants is not None:
            return frozenset(self.tenants)
        return frozenset(self.tenant_map.values()) or None


class CertificateClient(Binding):
    """An adapter that shows a client certificate in place of a token: scope results:write."""

    client_id: Text
    tenant: Tenant
    subject: str | None = Field(
        default=None, description="The whole subject, RFC 4514: CN=eda,O=acme."
    )
    san: str | None = Field(
        default=None,
        pattern="^(DNS|URI|email):.+$",
        description="One of its alternative names: DNS:eda.acme.example, URI:spiffe://…",
    )

    @model_validator(mode="after")
    def relations(self) -> Self:
        """One name decides."""
        if (self.subject is None) == (self.san is None):
            raise ValueError(f"certificate client {self.client_id}: subject or san, just one")
        return self


class KafkaSecurity(BaseModel):
    """How Kafka is reached: TLS, a client certificate, SASL over TLS."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # SASL without TLS is left out: it gives passwords (PLAIN) or every record to who listens.
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_SSL"] = "PLAINTEXT"
    cafile: Path | None = Field(default=None, description="Authorities of the brokers; system's.")
    certfile: Path | None = Field(default=None, description="Our certificate, PEM, for mTLS.")
    keyfile: Path | None = None
    key_password: SecretStr | None = None
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    sasl_password_file: Path | None = Field(
        default=None, description="Read at each connection, so a new password needs no restart."
    )

    @model_validator(mode="after")
    def relations(self) -> Self:
        """Refuse what would go in the clear, or cannot work."""
        tls = (self.cafile, self.certfile, self.keyfile, self.key_password)
        passwords = (self.sasl_password, self.sasl_password_file)
        sasl = (self.sasl_username, *passwords)
        if self.security_protocol == "PLAINTEXT" and any((*tls, *sasl)):
            raise ValueError("kafka_security: PLAINTEXT has no TLS or SASL; say SSL or SASL_SSL")
        if self.security_protocol == "SSL" and any(sasl):
            raise ValueError("kafka_security: SASL needs security_protocol SASL_SSL")
        if (self.certfile is None) != (self.keyfile is None):
            raise ValueError("kafka_security: certfile and keyfile come together")
        known = self.sasl_username is not None and any(passwords) and not all(passwords)
        if self.security_protocol == "SASL_SSL" and not known:
            raise ValueError(
                "kafka_security: SASL_SSL needs sasl_username, and sasl_password or"
                " sasl_password_file"
            )
        return self

    def password(self) -> str | None:
        """The SASL password.

        Raises:
            OSError: its file cannot be read.
        """
        if self.sasl_password_file is not None:
            return self.sasl_password_file.read_text(encoding="utf-8").strip()
        return None if self.sasl_password is None else self.sasl_password.get_secret_value()

    def client_options(self) -> dict[str, Any]:
        """Aiokafka's options for TLS and SASL; files are read now, so at each connection.

        Raises:
            OSError: a file cannot be read (ssl.SSLError: or is no certificate).
        """
        if self.security_protocol == "PLAINTEXT":
            return {}
        # It checks the broker's name against its certificate; no setting leaves that out.
        context = ssl.create_default_context(cafile=self.cafile)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certfile is not None:
            word = self.key_password
            context.load_cert_chain(
                self.certfile, self.keyfile, None if word is None else word.get_secret_value()
            )
        made: dict[str, Any] = {"security_protocol": self.security_protocol, "ssl_context": context}
        if self.security_protocol == "SASL_SSL":
            made["sasl_mechanism"] = self.sasl_mechanism
            made["sasl_plain_username"] = self.sasl_username
            made["sasl_plain_password"] = self.password()
        return made


def is_loopback(host: str | None) -> bool:
    """Whether a host name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ip_address(host or "").is_loopback
    except ValueError:
        return False


def is_safe(url: str) -> bool:
    """Whether what comes from a URL is what its host sent: https, or this machine."""
    parts = urlsplit(url)
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))
    )

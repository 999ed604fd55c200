"""Settings: read once from the environment and files, frozen, their relations asserted."""

from collections.abc import Mapping
from functools import cached_property
from itertools import combinations
from typing import Final, Self
from urllib.parse import urlsplit

from pydantic import model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.config.app import AppSettings
from app.config.both import BothSettings
from app.config.relay import RelaySettings
from app.config.sources import PREFIX, Sourced
from app.config.worker import WorkerSettings
from app.trust import DEV_ISSUER, Issuer, is_loopback, is_safe

__all__ = ["DEPLOYMENTS", "PREFIX", "Settings", "WorkerSettings", "load"]

DEPLOYMENTS: Final[Mapping[str, type[BaseSettings]]] = {
    "both": BothSettings,
    "app": AppSettings,
    "relay": RelaySettings,
    "worker": WorkerSettings,
}


class Settings(BothSettings, AppSettings, RelaySettings, Sourced):
    """What a deployment of the app or the relay can set; `broker config` prints it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_nested_delimiter="__"
    )

    @model_validator(mode="after")
    def relations(self) -> Self:
        """Refuse settings that contradict each other."""
        if self.publish_timeout_s >= self.relay_lease_s:
            raise ValueError("publish_timeout_s must be below relay_lease_s: a row could be free")
        if self.args_bytes_max > self.body_bytes_max:
            raise ValueError("args_bytes_max must not exceed body_bytes_max")
        if self.deadline_s > self.deadline_max_s:
            raise ValueError("deadline_s must not exceed deadline_max_s")
        if self.heartbeat_s > 15:  # noqa: PLR2004 the MCP front's promise
            raise ValueError("heartbeat_s must not exceed 15: clients give up on silence")
        if any(len(one.get_secret_value().encode()) < 32 for one in self.webhook_keys):  # noqa: PLR2004
            raise ValueError("webhook_keys: 32 bytes or more each")
        self._issuer_relations()
        self._certificate_relations()
        self._console_relations()
        return self

    def _issuer_relations(self) -> None:
        if self.issuer_refetch_s > self.issuer_keys_kept_s:
            raise ValueError("issuer_refetch_s must not exceed issuer_keys_kept_s")
        if self.issuer_keys_kept_s > self.issuer_keys_stale_max_s:
            raise ValueError("issuer_keys_kept_s must not exceed issuer_keys_stale_max_s")
        for issuer in self.issuers:
            exposed = not is_loopback(self.host) or self.public_url.startswith("https:")
            if issuer.issuer == DEV_ISSUER and exposed:
                raise ValueError(
                    f"the development issuer {DEV_ISSUER} is for the embedded stack: with it, host"
                    f" must be a loopback address (it is {self.host!r}) and public_url plain http."
                    " Name your own issuer in MCP_BROKER_ISSUERS."
                )
        for one, other in combinations(self.issuers, 2):
            if one.issuer == other.issuer:
                raise ValueError(f"issuer {one.issuer} is there twice")
            mine, theirs = one.may_speak_for, other.may_speak_for
            shared = mine is None or theirs is None or bool(mine & theirs)
            # `id:bob` must not be bob of the issuer `id:` and a user of that name of another.
            prefixes = sorted((one.user_prefix, other.user_prefix))
            if shared and prefixes[1].startswith(prefixes[0]):
                raise ValueError(
                    f"issuers {one.issuer} and {other.issuer} speak for the same tenants, where a"
                    " user of one could have the name of another's: give each a user_prefix that"
                    " does not begin with the other's, or each its own tenants"
                )

    def _certificate_relations(self) -> None:
        if (self.tls_certfile is None) != (self.tls_keyfile is None):
            raise ValueError("tls_certfile and tls_keyfile come together")
        if not self.certificate_clients:
            return
        if self.client_ca_file is None:
            raise ValueError("certificate_clients need client_ca_file")
        if self.tls_certfile is None and not self.trusted_proxies:
            raise ValueError("certificate_clients need tls_certfile or trusted_proxies")
        names = [client.subject or client.san for client in self.certificate_clients]
        if len(set(names)) < len(names):
            raise ValueError("certificate_clients: a name stands there twice")

    def _console_relations(self) -> None:
        if self.console_idle_s > self.console_session_s:
            raise ValueError("console_idle_s must not exceed console_session_s")
        if self.console_client_id is None:
            return
        if "openid" not in self.console_scopes:
            raise ValueError("console_scopes must name openid: it asks for the ID token")
        if not is_safe(self.public_url):
            raise ValueError(
                "the console needs a public_url of https, or of loopback: its cookies go there"
            )
        found = self.console_trusts
        if found is None or found.issuer == DEV_ISSUER:
            raise ValueError(
                "console_issuer must name one of the issuers: people sign in there (the development"
                " issuer has no pages)"
            )

    @cached_property
    def console_trusts(self) -> Issuer | None:
        """The issuer that people sign in with at the console."""
        named = self.console_issuer
        fitting = [
            one
            for one in self.issuers
            if one.issuer == named or (named is None and one.issuer != DEV_ISSUER)
        ]
        return fitting[0] if len(fitting) == 1 else None

    @cached_property
    def console_links(self) -> Issuer | None:
        """The development issuer, whose one-time links let people in; None in production."""
        return next((one for one in self.issuers if one.issuer == DEV_ISSUER), None)

    @cached_property
    def approvals_url(self) -> str | None:
        """Below which each approval has its page; None where people cannot sign in by themselves.

        The development stack's links are one-time, and printed for whoever started it.
        """
        if self.console_client_id is None:
            return None
        return f"{self.public_url.rstrip('/')}/console/approvals"

    @cached_property
    def mcp_url(self) -> str:
        """The resource that MCP tokens are issued for (RFC 8707)."""
        return f"{self.public_url.rstrip('/')}/mcp"

    @cached_property
    def hosts_served(self) -> tuple[str, ...]:
        """The hosts that are answered: those allowed, and the public URL's own."""
        public = urlsplit(self.public_url)
        name = public.netloc.rpartition("@")[2]
        port = {"https": 443, "http": 80}.get(public.scheme)
        own = (name,) if public.port is not None else (name, f"{name}:{port}")
        return tuple(dict.fromkeys((*self.allowed_hosts, *own)))

    @cached_property
    def origins_served(self) -> tuple[str, ...]:
        """The origins that are answered: those allowed, and the public URL's own."""
        public = urlsplit(self.public_url)
        own = f"{public.scheme}://{public.netloc.rpartition('@')[2]}"
        return tuple(dict.fromkeys((*self.allowed_origins, own)))


def load() -> Settings:
    """Read the settings; raises pydantic.ValidationError, which names each bad one."""
    return Settings()  # pyright: ignore[reportCallIssue] the environment gives database_url

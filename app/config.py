"""Settings: read once from the environment and files, frozen, their relations asserted."""

from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import orjson
from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.trust import DEV_ISSUER, CertificateClient, Issuer, KafkaSecurity, is_loopback

PREFIX: Final = "MCP_BROKER_"

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


class FileSource(PydanticBaseSettingsSource):
    """Reads `MCP_BROKER_X_FILE` for a setting x: the way of mounted secrets and Vault agents."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """Unused: `__call__` reads all fields."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        import os  # noqa: PLC0415 the only place that reads the environment by hand

        found: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            path = os.environ.get(f"{PREFIX}{name.upper()}_FILE")
            if path:
                text = Path(path).read_text(encoding="utf-8").strip()
                found[name] = orjson.loads(text) if self.field_is_complex(field) else text
        return found


class Settings(BaseSettings):
    """What a deployment of the app or the relay can set; `broker config` prints it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_nested_delimiter="__"
    )

    database_url: SecretStr = Field(
        description="PostgreSQL 15 to 18, as postgresql://user:password@host:port/name."
    )
    database_pool_max: Count = Field(default=10, description="Connections for everyday queries.")
    intake_pool_max: Count = Field(default=3, description="The app's, for the hot statements.")
    relay_pool_max: Count = Field(default=8, description="The relay's, for the outbox and seals.")
    kafka_bootstrap: str = Field(
        default="127.0.0.1:9092", description="Kafka brokers, comma separated."
    )
    kafka_security: KafkaSecurity = Field(
        default=KafkaSecurity(),
        description="JSON: security_protocol (PLAINTEXT, SSL, SASL_SSL), cafile, certfile, keyfile,"
        " key_password, sasl_mechanism, sasl_username, sasl_password or sasl_password_file.",
    )
    kafka_create_topics: bool = Field(default=True, description="Create missing topics at start.")
    kafka_partitions: Count = Field(default=6, description="Partitions of a topic that we create.")
    kafka_replication: Count = Field(default=1, description="Replicas of a topic that we create.")

    host: str = Field(default="127.0.0.1", description="Where the app listens.")
    port: int = Field(default=8080, ge=0, le=65535, description="0: a free one.")
    public_url: str = Field(
        default="http://127.0.0.1:8080",
        description="How clients reach the app; the token audience's base.",
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=("127.0.0.1:*", "localhost:*", "[::1]:*"),
        description="Host headers that are answered.",
    )
    allowed_origins: tuple[str, ...] = Field(
        default=("http://127.0.0.1:*", "http://localhost:*", "http://[::1]:*"),
        description="Origin headers that are answered.",
    )
    issuers: tuple[Issuer, ...] = Field(
        default=(), description="JSON list of trusted token issuers."
    )
    request_state_keys: tuple[SecretStr, ...] = Field(
        default=(),
        description="JSON list of secrets of 32 bytes and more, alike on every replica: the first"
        " seals what a client brings back with an approval. None: a process's own.",
    )
    approval_wait_s: Seconds = Field(default=600, description="A question's state is good for.")
    clock_skew_s: float = Field(default=30, ge=0, le=300, description="Tolerated in token times.")
    issuer_keys_kept_s: Seconds = Field(
        default=300, description="An issuer's keys are read again after this, behind the callers."
    )
    issuer_refetch_s: Seconds = Field(
        default=10, description="At most this often, whatever keys callers' tokens name."
    )
    issuer_keys_stale_max_s: Seconds = Field(
        default=86400, description="Keys of an issuer that does not answer are good this long."
    )
    refusals_period_s: Seconds = Field(
        default=60,
        description="Equal login failures and denials within this are one audit event, or two.",
    )
    tls_certfile: Path | None = Field(
        default=None, description="The app's certificate, PEM: it serves TLS by itself."
    )
    tls_keyfile: Path | None = Field(default=None, description="Its key, PEM.")
    client_ca_file: Path | None = Field(
        default=None, description="Authorities of client certificates, PEM."
    )
    certificate_clients: tuple[CertificateClient, ...] = Field(
        default=(), description="JSON list of adapters that are known by a client certificate."
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(),
        description="JSON list of the networks whose Client-Cert header (RFC 9440) is believed.",
    )

    metrics_host: str = Field(default="127.0.0.1", description="Where metrics are served.")
    metrics_port: int | None = Field(
        default=None, gt=0, le=65535, description="For Prometheus, at /metrics; none: not served."
    )
    gauges_s: Seconds = Field(
        default=10, description="How often the relay counts what there is, for its metrics."
    )

    body_bytes_max: Count = Field(default=1 << 20, description="Of a request.")
    args_bytes_max: Count = Field(default=256 << 10, description="Of a call's arguments.")
    result_bytes_max: Count = Field(default=4 << 20, description="Of an adapter's result.")
    result_inline_bytes_max: Count = Field(
        default=100_000, description="Inline to MCP; the rest by link."
    )
    inline_wait_s: Seconds = Field(
        default=45, description="How long a call waits before 'accepted'."
    )
    deadline_s: Seconds = Field(default=3600, description="Of a call that names none.")
    deadline_max_s: Seconds = Field(default=7 * 86400, description="The longest that may be asked.")
    saga_idle_s: Seconds = Field(
        default=3600,
        description="An ad hoc saga without a call or a commit for this ends as saga_on_idle says.",
    )
    saga_on_idle: Literal["compensate", "complete"] = Field(
        default="compensate", description="Whether such a saga is undone, or taken as committed."
    )
    heartbeat_s: Seconds = Field(default=10, description="Progress is said at least this often.")
    listen_streams_max: Count = Field(
        default=1000,
        description="Open streams of a process: subscriptions/listen, and GET /mcp of sessions.",
    )
    listen_streams_per_user_max: Count = Field(default=50, description="Of these, one user's.")
    catalog_kept_s: Seconds = Field(
        default=5, description="Tools and grants are read again so often, announced or not."
    )
    intake_batch_max: Count = Field(default=256, description="Calls per intake transaction.")
    intake_queue_max: Count = Field(
        default=10_000, description="Calls waiting for intake; then 503."
    )
    poll_s: Seconds = Field(default=1, description="The net under LISTEN/NOTIFY.")
    notify_coalesce_ms: float = Field(
        default=5, gt=0, description="Wakeups are gathered this long."
    )

    relay_batch_max: Count = Field(default=500, description="Outbox rows per claim.")
    relay_lease_s: Seconds = Field(
        default=30, description="A claimed, unpublished row is free after this."
    )
    publish_timeout_s: Seconds = Field(default=20, description="Then the producer is discarded.")
    event_bytes_max: int = Field(
        default=900_000,
        ge=10_000,
        description="Of an event's value in Kafka. What is larger goes without the result, error"
        " text or arguments, which are read from the app. Below the topics' max.message.bytes.",
    )
    dispatch_window: Count = Field(
        default=40,
        description="Commands of a tool handed to Kafka at a time, where its catalog entry sets"
        " none: about twice what its rulebooks run at once. One in eight is spared for tenants that"
        " have none of it in flight.",
    )
    claim_wait_s: Seconds = Field(
        default=120,
        description="Dispatched and unclaimed for longer is sent again; doubled each time.",
    )
    lease_s: Seconds = Field(default=60, description="An adapter's lease; progress renews it.")
    cancel_grace_s: Seconds = Field(default=30, description="For a running adapter to acknowledge.")
    aging_s: Seconds = Field(
        default=60, description="Waiting this long is worth one priority step."
    )
    clock_s: Seconds = Field(default=0.5, description="Period of the timers.")
    keys_kept_s: Seconds = Field(
        default=7 * 86400,
        description="An ended command's idempotency key; after that the key makes a new command.",
    )
    bodies_kept_s: Seconds = Field(
        default=30 * 86400,
        description="An ended command's args, result, error text and progress.",
    )
    dead_letters_kept_s: Seconds = Field(
        default=90 * 86400, description="A dead letter that nobody settles; then it is discarded."
    )
    events_kept_s: Seconds | None = Field(
        default=None,
        description="Audit events, in whole months; then a signed seal says that they may be"
        " dropped, which `broker audit retire` does. None: for ever.",
    )
    purge_s: Seconds = Field(default=300, description="Period of the purge of keys and bodies.")
    seal_s: Seconds = Field(default=1, description="Period of the audit sealer.")
    seal_keys: tuple[str, ...] = Field(
        default=(),
        description="JSON list of the audit trail's signers: PEM files of Ed25519 keys, or"
        " package.module:function of a plug-in. None: the trail is not sealed.",
    )
    audit_log: str = Field(default="mcpbroker", description="Names this broker in checkpoints.")
    anchor_file: Path | None = Field(
        default=None, description="Relay: a file that each seal's anchor is added to, beside Kafka."
    )

    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_json: bool = Field(default=True, description="JSON lines; false is for people.")

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
        self._issuer_relations()
        self._certificate_relations()
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
            if shared and one.user_prefix == other.user_prefix:
                raise ValueError(
                    f"issuers {one.issuer} and {other.issuer} speak for the same tenants, where"
                    " their users of one name would be one user: give one a user_prefix, or each"
                    " its own tenants"
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

    @cached_property
    def mcp_url(self) -> str:
        """The resource that MCP tokens are issued for (RFC 8707)."""
        return f"{self.public_url.rstrip('/')}/mcp"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment, then the files that `*_FILE` variables name."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, FileSource(settings_cls)


def load() -> Settings:
    """Read the settings; raises pydantic.ValidationError, which names each bad one."""
    return Settings()  # pyright: ignore[reportCallIssue] the environment gives database_url

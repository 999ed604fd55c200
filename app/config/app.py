"""Settings of the app: MCP, plain HTTP, tokens, intake, and what adapters report."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from app.config.field import Count, Seconds, setting
from app.trust import CertificateClient, Issuer


class AppSettings(BaseSettings):
    """What only the app reads."""

    host: str = setting(
        "127.0.0.1",
        "The address on which the app listens.",
        change="0.0.0.0 in a container, or behind a proxy on another machine.",
    )
    port: int = setting(
        8080,
        "The port on which the app listens; 0 is a free one.",
        change="When it is taken.",
        ge=0,
        le=65535,
    )
    allowed_hosts: tuple[str, ...] = setting(
        ("127.0.0.1:*", "localhost:*", "[::1]:*"),
        "JSON list of the Host headers that callers' requests may have, beside public_url's; *"
        " stands for any port.",
        change="When the app has other names than that: it keeps DNS rebinding out.",
    )
    allowed_origins: tuple[str, ...] = setting(
        ("http://127.0.0.1:*", "http://localhost:*", "http://[::1]:*"),
        "JSON list of the Origin headers that requests may have, beside public_url's; * stands for"
        " any port, and most clients send none.",
        change="When pages of another origin call from a browser (CORS).",
    )
    issuers: tuple[Issuer, ...] = setting(
        (),
        "JSON list of the trusted token issuers, with audience, claims and keys (OPERATORS.md).",
        change="Always: without one, nobody can log in.",
    )
    trace_front: Literal["parent", "link"] = setting(
        "parent",
        "What a client's traceparent is to the span that serves it: its parent, or only a link.",
        change="link, where clients are strangers: their traces, and what they sample, are theirs.",
    )
    clock_skew_s: float = setting(
        30,
        "How far a token's times may be off.",
        unit="seconds",
        change="Lower it where all clocks are kept by NTP.",
        ge=0,
        le=300,
    )
    issuer_keys_kept_s: Seconds = setting(
        300,
        "How old an issuer's keys may get before they are read again, beside the callers.",
        unit="seconds",
        change="Lower it where keys are withdrawn often.",
    )
    issuer_refetch_s: Seconds = setting(
        10,
        "The least time between two reads of an issuer's keys, whatever keys tokens name.",
        unit="seconds",
        change="Rarely: it shields the issuer from forged tokens.",
    )
    issuer_keys_stale_max_s: Seconds = setting(
        86400,
        "How long the known keys of an issuer that does not answer are used.",
        unit="seconds",
        change="Lower it where a withdrawn key must stop working even while the issuer is away.",
    )
    console_client_id: str | None = setting(
        None,
        "The console's client id at its issuer, for sign-in by OpenID Connect. None: no console,"
        " but on the development stack.",
        change="To what the issuer calls a client with the redirect URI"
        " <public_url>/console/sign-in/callback.",
    )
    console_client_secret: SecretStr | None = setting(
        None,
        "The secret of console_client_id. None: a public client, which PKCE alone protects.",
        change="Where the issuer gave one.",
    )
    console_issuer: str | None = setting(
        None,
        "Which of the issuers people sign in with at the console. None: the only one that is"
        " there.",
        change="Where there are several issuers.",
    )
    console_scopes: tuple[str, ...] = setting(
        ("openid",),
        "JSON list of the scopes that the console asks its issuer for; openid among them.",
        change="Where the issuer tells tenant, groups or roles for a further scope only.",
        min_length=1,
    )
    console_session_s: Seconds = setting(
        8 * 3600,
        "How long a sign-in at the console lasts at the most.",
        unit="seconds",
        change="Lower it where what a person may do must be asked of the issuer more often.",
    )
    console_idle_s: Seconds = setting(
        1800,
        "How long a session of the console may be without a request; an open live view is none.",
        unit="seconds",
        change="Lower it where screens are shared.",
    )
    console_trace_url: str | None = setting(
        None,
        "Where the console's link to a call's trace leads; {trace_id} in it is the trace's id.",
        change="To your tracing system's address of a trace.",
    )
    refusals_period_s: Seconds = setting(
        60,
        "Within this, equal login failures and denials are one audit event, or two.",
        unit="seconds",
        change="Lower it for finer times in the audit trail; it bounds what an attacker can write.",
    )
    tls_certfile: Path | None = setting(
        None,
        "The app's own TLS certificate, PEM. None: TLS ends in a proxy before it.",
        change="Where no proxy ends TLS.",
    )
    tls_keyfile: Path | None = setting(
        None, "The key of tls_certfile, PEM.", change="With tls_certfile."
    )
    client_ca_file: Path | None = setting(
        None,
        "The authorities of adapters' client certificates, PEM.",
        change="With certificate_clients.",
    )
    certificate_clients: tuple[CertificateClient, ...] = setting(
        (),
        "JSON list of the adapters that a client certificate identifies, with their tenants.",
        change="Where adapters have certificates and no tokens.",
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = setting(
        (),
        "JSON list of the networks whose Client-Cert header (RFC 9440) is believed.",
        change="Where a proxy ends the adapters' TLS; it must remove that header from requests.",
    )
    dpop_proof_s: Seconds = setting(
        60,
        "How old a DPoP proof (RFC 9449) may be, beside clock_skew_s.",
        unit="seconds",
        change="Lower it where clocks are kept by NTP: within it a proof is remembered.",
    )
    dpop_nonce_s: float = setting(
        0,
        "How long a nonce is good that DPoP proofs must have; 0: they need none.",
        unit="seconds",
        change="300 keeps out proofs made long before; replicas then need request_state_keys.",
        ge=0,
    )
    request_state_keys: tuple[SecretStr, ...] = setting(
        (),
        "JSON list of secrets that seal an elicitation's state and DPoP nonces; the first seals,"
        " all open. None: a secret of the process's own.",
        unit="32 bytes or more each",
        change="Where there are several replicas: give all the same.",
    )
    elicitation_first: Literal["url", "form"] = setting(
        "url",
        "How a person is asked for an approval whose client has both modes of elicitation: url, at"
        " the console, or form, in the client.",
        change="form, where the client's word for its person is enough, and one click is wanted.",
    )
    approval_wait_s: Seconds = setting(
        600,
        "How long the state of an elicitation (an approval, a question) can be answered.",
        unit="seconds",
        change="Raise it where people take longer to decide.",
    )
    head_bytes_max: Count = setting(
        64 << 10,
        "The largest line and headers of a request; more is answered 431, or closes the"
        " connection.",
        unit="bytes",
        change="Raise it for tokens or client certificates that are larger.",
    )
    head_s: Seconds = setting(
        20,
        "In which a request's line and headers must have come; then the connection is closed.",
        unit="seconds",
        change="Raise it for callers with very slow lines.",
    )
    connections_max: Count = setting(
        5000,
        "The most open connections of a process; further ones are closed at once.",
        unit="connections",
        change="With the limit of open files, which must be above it.",
    )
    body_s: Seconds = setting(
        60,
        "In which a request's body must have come; then 408.",
        unit="seconds",
        change="Raise it for callers with very slow lines.",
    )
    body_bytes_max: Count = setting(
        1 << 20,
        "The largest body of a caller's request; a larger one is refused with 413.",
        unit="bytes",
        change="With args_bytes_max.",
    )
    args_bytes_max: Count = setting(
        256 << 10,
        "The largest arguments of a call.",
        unit="bytes",
        change="Raise it for tools with large arguments, or pass those by reference.",
    )
    result_inline_bytes_max: Count = setting(
        100_000,
        "The largest result that an MCP answer contains; a larger one is a resource link.",
        unit="bytes",
        change="To what your clients' models can read.",
    )
    inline_wait_s: Seconds = setting(
        45,
        "How long a call waits for its end before the answer is 'accepted, still running'.",
        unit="seconds",
        change="Keep it below the timeout of your clients and proxies; tools and tenants can set"
        " their own.",
    )
    task_after_s: float = setting(
        5,
        "How long a call of a client that has tasks waits for its end before the answer is a task.",
        unit="seconds",
        change="0 makes a task of each call at once; tools can set their own.",
        ge=0,
    )
    deadline_max_s: Seconds = setting(
        7 * 86400,
        "The longest deadline that a call may ask for.",
        unit="seconds",
        change="Where work takes longer, or nothing may wait so long.",
    )
    saga_idle_s: Seconds = setting(
        3600,
        "How long an ad hoc saga may be without a call or a commit; then saga_on_idle applies.",
        unit="seconds",
        change="Raise it where a person or a model thinks for longer between two steps.",
    )
    saga_on_idle: Literal["compensate", "complete"] = setting(
        "compensate",
        "What becomes of an idle ad hoc saga: its steps are undone, or it is taken as committed.",
        change="complete, where half of the work is better than none.",
    )
    mcp_events: bool = setting(
        False,
        "Whether MCP's events extension (SEP-3415) is served: by poll and push, and by webhook"
        " where webhook_keys are set.",
        change="true, where a client takes events; each open stream is a query each poll_s.",
    )
    heartbeat_s: Seconds = setting(
        10,
        "The longest time without a progress notification to a client that asked for progress.",
        unit="seconds, 15 at most",
        change="Lower it where clients or proxies give up on shorter silence.",
    )
    listen_streams_max: Count = setting(
        1000,
        "The most open streams of a process: subscriptions/listen, GET /mcp of sessions, and the"
        " events of commands.",
        unit="streams",
        change="Raise it for more connected clients; each keeps a socket and some memory.",
    )
    listen_streams_per_user_max: Count = setting(
        50,
        "The most of those streams that one user may have.",
        unit="streams",
        change="Where one user is a service with many clients.",
    )
    intake_pool_max: Count = setting(
        3,
        "The most connections for intake.",
        unit="connections",
        change="Rarely: two batches are in flight at most.",
    )
    intake_batch_max: Count = setting(
        256,
        "The most calls that one transaction accepts.",
        unit="calls",
        change="Rarely: fewer make each transaction shorter, and the throughput less.",
    )
    intake_queue_max: Count = setting(
        10_000,
        "The most calls that wait for acceptance in a process; further ones are refused with 503.",
        unit="calls",
        change="Lower it where a quick refusal is better than a late answer.",
    )

"""Settings that the app and the relay share; give both the same values."""

from pydantic import SecretStr

from app.config.field import REQUIRED, Count, Seconds, setting
from app.config.webhooks import WebhookSettings


class BothSettings(WebhookSettings):
    """What app and relay read."""

    database_url: SecretStr = setting(
        REQUIRED,
        "The PostgreSQL database (15 to 18), as postgresql://user:password@host:port/name.",
        change="Always; the app connects as a member of broker_app, the relay of broker_relay.",
    )
    database_direct_url: SecretStr | None = setting(
        None,
        "As database_url, past any pooler: for the connection that listens. None: database_url.",
        change="Where database_url goes through PgBouncer; migrations need it, too.",
    )
    public_url: str = setting(
        "http://127.0.0.1:8080",
        "The URL by which clients reach the app; with /mcp it is the resource of their tokens."
        " Links in webhooks begin with it.",
        change="Always, to the URL in your issuer's audience and in the clients' settings.",
    )
    database_pool_max: Count = setting(
        10,
        "The most connections of a process for everyday queries.",
        unit="connections",
        change="Raise it when requests wait for a connection; count it into max_connections.",
    )
    deadline_s: Seconds = setting(
        3600,
        "The deadline of a call that names none, and whose tool and saga step set none.",
        unit="seconds",
        change="When most of your tools are done much sooner, or later.",
    )
    cancel_grace_s: Seconds = setting(
        30,
        "How long a running adapter has to acknowledge a cancellation; then its attempt is lost.",
        unit="seconds",
        change="Raise it where adapters look for a cancellation more seldom.",
    )
    bodies_kept_s: Seconds = setting(
        30 * 86400,
        "How long an ended command keeps its arguments, result, error text and progress.",
        unit="seconds",
        change="To what your rules on personal data, or your callers, ask for.",
    )
    catalog_kept_s: Seconds = setting(
        5,
        "How long tools, tenants and grants are kept in memory where no notification comes.",
        unit="seconds",
        change="Rarely: a change is announced, and this bounds a lost announcement.",
    )
    poll_s: Seconds = setting(
        1,
        "How often work is looked for without a notification.",
        unit="seconds",
        change="Rarely: a higher value saves queries and costs latency where LISTEN fails.",
    )
    notify_coalesce_ms: float = setting(
        5,
        "How long wakeups are gathered before one NOTIFY is sent.",
        unit="milliseconds",
        change="Rarely: a NOTIFY serializes commits, so less than this costs throughput.",
        gt=0,
    )
    lease_s: Seconds = setting(
        60,
        "An adapter's lease on its attempt: without progress for so long it counts as lost.",
        unit="seconds",
        change="Raise it where adapters report more seldom; tools can set their own.",
    )

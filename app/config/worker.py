"""Settings of the worker: where it reads commands, whom it tells, and how much it does at once."""

from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from adapters.vault_server import VaultServer
from app.config.every import EverySettings
from app.config.field import Count, Seconds, setting
from app.config.kafka import KafkaSettings
from app.config.sources import PREFIX, Sourced


class WorkerSettings(EverySettings, KafkaSettings, Sourced):
    """What the worker reads: no database is among it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_nested_delimiter="__"
    )

    url: str = setting(
        "http://127.0.0.1:8080",
        "The app's address, for the results API.",
        change="Wherever the app is not on this machine.",
    )
    token: SecretStr | None = setting(
        None,
        "A token with scope results:write, for the tenants whose calls it works on.",
        change="Where no token_file is kept fresh.",
    )
    token_file: Path | None = setting(
        None,
        "A file with that token, read for each request.",
        change="Where tokens are renewed: the file may change under a running worker.",
    )
    cafile: Path | None = setting(
        None,
        "The authorities that the app's certificate is of. None: the system's.",
        change="With a certificate of a private authority.",
    )
    worker_group: str = setting(
        "mcp-broker-worker",
        "The consumer group, whose workers share the partitions of mcp.commands.worker.",
        change="Where workers of two installations read one Kafka.",
    )
    worker_calls_max: Count = setting(
        256,
        "The most calls that a worker works on at once.",
        unit="calls",
        change="Raise it for calls that wait for their targets more than they compute.",
    )
    worker_calls_per_tenant_max: Count = setting(
        64,
        "The most of those that one tenant may have. A target's own limits come on top.",
        unit="calls",
        change="Raise it where one tenant has a worker to itself.",
    )
    worker_grace_s: Seconds = setting(
        25,
        "How long a worker that is told to stop works on; then calls are given back.",
        unit="seconds",
        change="To a few seconds less than your supervisor waits before it kills.",
    )
    worker_vault: VaultServer | None = setting(
        None,
        "The OpenBao or Vault that references vault:mount/path#field are looked up in, as JSON:"
        " address, namespace, ca_file, and token, or role_id and secret_id, or role and jwt, which"
        " are references env: or file: themselves.",
        change="Where targets' credentials are in a vault. It needs the extra vault.",
    )

"""Settings of webhooks that the app and the relay share."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from pydantic import SecretStr

from app.config.every import EverySettings
from app.config.field import Count, setting


class WebhookSettings(EverySettings):
    """Where webhooks may go, and what keeps their secrets."""

    webhook_keys: tuple[SecretStr, ...] = setting(
        (),
        "JSON list of secrets by which the secrets of webhooks are kept; the first seals, all open."
        " None: webhooks are off.",
        unit="32 bytes or more each",
        change="To switch webhooks on; give app and relay the same, and keep an old one until its"
        " endpoints' secrets were rotated.",
    )
    webhook_networks: tuple[IPv4Network | IPv6Network, ...] = setting(
        (),
        "JSON list of the networks that webhooks may go to beside the public internet, and to which"
        " http is allowed.",
        change="To your receivers' networks, as narrow as they are; 127.0.0.0/8 on a laptop.",
    )
    webhook_ca_file: Path | None = setting(
        None,
        "The authorities of receivers' certificates, PEM. None: those of the system.",
        change="Where receivers have certificates of an authority of your own.",
    )
    webhook_endpoints_max: Count = setting(
        20,
        "The most endpoints of a tenant's operators, and the most subscriptions of an MCP user.",
        unit="endpoints",
        change="Raise it where more receivers are told.",
    )

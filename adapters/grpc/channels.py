"""A connection to a target's services: its TLS, its bounds, and no retry of its own."""

from typing import Any, Final

import grpc

from adapters.contract import Opening

HELD: Final = 64 * 1024


async def channel_of(opening: Opening) -> grpc.aio.Channel:
    """A channel, which connects when it is used.

    Raises:
        CallFailedError: a reference has no value.
    """
    target, secrets = opening.target, opening.secrets
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", target.limits.result_bytes_max + HELD),
        ("grpc.enable_retries", 0),  # retries are the broker's, each an attempt on record
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if target.options.get("plaintext", False):
        return grpc.aio.insecure_channel(target.address, options)
    tls = target.tls
    values = [
        None if one is None else (await secrets.value(one)).encode()
        for one in (tls.ca, tls.key, tls.certificate)
    ]
    if tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    credentials = grpc.ssl_channel_credentials(*values)
    return grpc.aio.secure_channel(target.address, credentials, options)

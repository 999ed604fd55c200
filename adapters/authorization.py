"""How a call shows who it is at a target that takes headers: `http`, `mcp` and `grpc` alike."""

import base64
from collections.abc import Iterator, Mapping
from typing import Any, Final

from adapters.contract import AdapterCall, Secrets
from adapters.targets import Target

FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "bearer": ("token",),
    "basic": ("username", "password"),
    "header": ("name", "value"),
    "oauth2": ("token_url", "client_id", "client_secret"),
    "exchange": ("token_url", "client_id", "client_secret", "issuer", "key"),
}
"""Each type of credential, and what it must have: tokens, passwords, secrets, keys and values are
references."""
MAY_HAVE: Final[Mapping[str, tuple[str, ...]]] = {
    "oauth2": ("scope", "audience", "resource"),
    "exchange": ("scope", "audience", "resource", "algorithm"),
}


async def headers(target: Target, secrets: Secrets, call: AdapterCall | None) -> dict[str, str]:
    """What goes with each request.

    Raises:
        CallFailedError: a reference has no value.
    """
    given = target.credential
    if given is None:
        return {}
    match given["type"]:
        case "bearer":
            return {"authorization": f"Bearer {await secrets.value(given['token'])}"}
        case "basic":
            pair = f"{given['username']}:{await secrets.value(given['password'])}"
            coded = base64.b64encode(pair.encode()).decode()
            secrets.hide(coded)
            return {"authorization": f"Basic {coded}"}
        case "oauth2" | "exchange":
            user = None if call is None else call.user
            return {"authorization": f"Bearer {await secrets.access_token(given, user)}"}
        case _:
            return {given["name"].lower(): await secrets.value(given["value"])}


def renew(target: Target, secrets: Secrets, call: AdapterCall | None) -> bool:
    """After a target has refused who asks: whether another token may be had, for one more try."""
    given = target.credential
    if given is None or given["type"] not in MAY_HAVE:
        return False
    secrets.forget_token(given, None if call is None else call.user)
    return True


def problems(credential: Mapping[str, Any] | None) -> Iterator[str]:
    """What is wrong with a target's credential."""
    if credential is None:
        return
    kind = credential.get("type")
    if kind not in FIELDS:
        yield f"credential.type is one of {', '.join(FIELDS)}"
        return
    for name in FIELDS[kind]:
        if not isinstance(credential.get(name), str):
            yield f"a credential of type {kind} has {name}, a text"
    if unknown := sorted(set(credential) - {"type", *FIELDS[kind], *MAY_HAVE.get(kind, ())}):
        yield f"a credential of type {kind} has no {', '.join(unknown)}"

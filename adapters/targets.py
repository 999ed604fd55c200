"""Where a call's work is done, as an administrator has written it down: without any secret."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Final, Self, TypeVar

SHARED: Final = None

Part = TypeVar("Part")


class TargetRefusedError(ValueError):
    """A target, or what a tool says of its use, is not of the contract's shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one target's calls."""

    calls_max: int = 16
    """At once, by one executor; the executor holds it."""
    calls_per_tenant_max: int | None = None
    connect_s: float = 10.0
    timeout_s: float = 3600.0
    """Of one call, under the command's deadline."""
    result_bytes_max: int = 1024 * 1024

    def __post_init__(self) -> None:
        for name in ("calls_max", "connect_s", "timeout_s", "result_bytes_max"):
            value: Any = getattr(self, name)
            wanted = int if name in ("calls_max", "result_bytes_max") else int | float
            if not isinstance(value, wanted) or isinstance(value, bool) or not value > 0:
                raise TargetRefusedError(f"limits.{name} must be a number above 0")
        per_tenant: Any = self.calls_per_tenant_max
        if per_tenant is not None and (type(per_tenant) is not int or per_tenant < 1):
            raise TargetRefusedError(
                "limits.calls_per_tenant_max must be a number above 0, or null"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Whom to trust, what to show: `ca`, `certificate` and `key` are references to PEM texts."""

    ca: str | None = None
    """None: the system's authorities."""
    certificate: str | None = None
    key: str | None = None
    server_name: str | None = None
    """Where the certificate is for another name than the address has."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not (value is None or isinstance(value, str)):
                raise TargetRefusedError(f"tls.{one.name} must be a text")
        if (self.certificate is None) != (self.key is None):
            raise TargetRefusedError("tls.certificate and tls.key come together")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A row of the table of targets, or an entry of a catalog file."""

    name: str
    kind: str
    tenant: str | None = SHARED
    """Whose it is; None: every tenant's."""
    address: str = ""
    """A URL (http, mcp), `host:port` (grpc), a program's absolute path (command); mcp over stdio:
    `stdio:` and a program's absolute path."""
    tls: Tls = Tls()
    credential: Mapping[str, Any] | None = None
    """Its `type` and references; `adapters.credentials` has the forms."""
    limits: Limits = Limits()
    allowed_hosts: tuple[str, ...] = ()
    """Hosts besides the address's own that a call may lead to (a poll, a download)."""
    takes_key: bool = False
    """It does one thing once for one idempotency key, so that an unknown outcome is asked again."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What only its kind knows."""

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Self:
        """A target of its JSON form, as `written` gives it.

        Raises:
            TargetRefusedError: a field is unknown, missing, or not of its type.
        """
        if unknown := sorted(set(value) - set(SHAPE)):
            raise TargetRefusedError(f"a target has no {', '.join(unknown)}")
        for name, (wanted, words) in SHAPE.items():
            if name in value and not isinstance(value[name], wanted):
                raise TargetRefusedError(f"{name} must be {words}")
        if not value.get("name") or not value.get("kind"):
            raise TargetRefusedError("a target has a name and a kind")
        hosts = value.get("allowed_hosts") or ()
        if not all(isinstance(one, str) for one in hosts):
            raise TargetRefusedError("allowed_hosts must be a list of texts")
        return cls(
            **{name: one for name, one in value.items() if name not in PARTS},
            tls=_part(Tls, "tls", value.get("tls")),
            limits=_part(Limits, "limits", value.get("limits")),
            allowed_hosts=tuple(hosts),
            options=value.get("options") or {},
        )

    def written(self) -> dict[str, Any]:
        """Its JSON form, with every field."""
        flat = {one.name: getattr(self, one.name) for one in fields(self)}
        return flat | {
            "tls": {one.name: getattr(self.tls, one.name) for one in fields(Tls)},
            "limits": {one.name: getattr(self.limits, one.name) for one in fields(Limits)},
            "credential": None if self.credential is None else dict(self.credential),
            "allowed_hosts": list(self.allowed_hosts),
            "options": dict(self.options),
        }

    @cached_property
    def identity(self) -> str:
        """The same for two targets that are alike in every field."""
        return json.dumps(self.written(), sort_keys=True, default=str)


TEXT: Final = (str, "a text")
OBJECT: Final = (Mapping | None, "an object")
SHAPE: Final[Mapping[str, tuple[Any, str]]] = {
    "name": TEXT,
    "kind": TEXT,
    "tenant": (str | None, "a text, or null"),
    "address": TEXT,
    "tls": OBJECT,
    "credential": OBJECT,
    "limits": OBJECT,
    "allowed_hosts": (list | tuple | None, "a list of texts"),
    "takes_key": (bool, "true or false"),
    "options": OBJECT,
}
PARTS: Final = ("tls", "limits", "allowed_hosts", "options")


def _part(cls: type[Part], name: str, given: Mapping[str, Any] | None) -> Part:
    known: set[str] = {one.name for one in fields(cls)}  # pyright: ignore[reportArgumentType]
    if unknown := sorted(set(given or {}) - known):
        raise TargetRefusedError(f"{name} has no {', '.join(unknown)}")
    return cls(**(given or {}))

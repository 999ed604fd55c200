"""Who is asking, by a verified token."""

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who is asking, by a verified token; nothing of it comes from a body."""

    tenant_id: str
    user_id: str
    client_id: str
    groups: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    tenants: frozenset[str] | None = None  # an adapter's or auditor's binding; None is any
    tools: tuple[str, ...] | None = None  # an adapter's binding: patterns of tool/method


def allowed_by_binding(adapter: Identity | None, tool: str, method: str) -> bool:
    """Whether an adapter's token lets it speak for a tool; the broker itself always may."""
    if adapter is None or adapter.tools is None:
        return True
    return any(fnmatchcase(f"{tool}/{method}", pattern) for pattern in adapter.tools)

"""Who is asking, by a verified token."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

ERASED: Final = "[erased]"
"""What an erasure leaves in place of a person's name; nobody can log in by it."""


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
    return any(matches_path(pattern, f"{tool}/{method}") for pattern in adapter.tools)


def matches(pattern: str, text: str) -> bool:
    """Whether a text fits a pattern: `*` is any text, `?` any character, all else is itself."""
    return fnmatchcase(text, pattern.replace("[", "[[]"))


def matches_path(pattern: str, path: str) -> bool:
    """As `matches`, of `tool/method`.

    No tool's name has a bracket: a pattern of before that has one means the class that it did, as
    no denial may open by an upgrade. New ones are refused.
    """
    return fnmatchcase(path, pattern)

"""What a source says of its tools, in one form for all sources; nothing is decided here yet."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One tool of a source."""

    source: str
    """The source's name of it."""
    key: str
    """The same for the tool as it was reviewed and as it is now."""
    short: str = ""
    """What of the source's name is enough where no other has it."""
    title: str = ""
    description: str = ""
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any] | None = None
    mapping: Mapping[str, Any]
    """With `digest`: what is pinned."""
    read_only: bool = False
    idempotent: bool = False
    destructive: bool = False
    annotations: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """MCP's hints, as far as the source says something."""
    notes: tuple[str, ...] = ()
    """What the reviewer should know beyond the entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A tool of a source that no entry can be made of, and why."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A source, as it is now."""

    told: str
    """What it says that it is."""
    name: str
    """A name for its target, where nobody gives one."""
    target: Mapping[str, Any]
    """The catalog's entry of it, less its name."""
    found: list[Draft | Skipped]
    notes: tuple[str, ...] = ()

"""`broker catalog diff`: what changed at the sources since their tools were reviewed."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from adapters.contract import Opening
from adapters.http import documents
from adapters.targets import Target
from app.catalog.policy import Tool
from app.cli.imports import aap, grpc, mcp, openapi
from app.cli.imports.draft import Draft, Skipped
from app.cli.imports.opening import opened
from app.cli.imports.schemas import Taken
from app.errors import BadRequestError


class Asked(NamedTuple):
    """How a kind's source is asked again."""

    found: Callable[[Opening, str | None], Awaitable[list[Draft | Skipped] | None]]
    """Also told where the source is, if somebody says; None: nobody does, nor the target."""
    key_of: Callable[[Mapping[str, Any]], str]


SOURCES: Final[Mapping[str, Asked]] = {
    "aap": Asked(aap.found, aap.key_of),
    "grpc": Asked(grpc.found, grpc.key_of),
    "http": Asked(openapi.found, documents.key_of),
    "mcp": Asked(mcp.found, mcp.key_of),
}
"""By the target's kind; another kind has no source."""


class State(StrEnum):
    """What became of a reviewed tool."""

    SAME = "same"
    CHANGED = "changed"
    GONE = "gone"
    UNPINNED = "unpinned"
    """Its entry has no digest."""
    NO_SOURCE = "no_source"
    """Its target does not say where the source can be asked."""
    UNREADABLE = "unreadable"
    """The source does not answer."""
    NEW = "new"
    """The source has it, and the catalog does not."""


DRIFT: Final = frozenset({State.CHANGED, State.GONE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One tool of the catalog, or of the source."""

    state: State
    target: str
    tool: str
    """Its name on the wire; of a new one, the source's."""
    reviewed: str | None = None
    now: str | None = None
    differs: tuple[str, ...] = ()
    """Fields of the entry that the source tells otherwise now."""
    reason: str | None = None


async def findings(
    tools: Sequence[Tool],
    targets: Iterable[Target],
    tenant: str | None,
    told: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Of all tools at these targets, as JSON; `told` says where a target's source is."""
    made: list[Finding] = []
    for target in targets:
        asked = SOURCES.get(target.kind)
        ours = [one for one in tools if one.adapter and one.adapter.target == target.name]
        if asked is not None and ours:
            made += await _of_target(target, ours, asked, tenant, told.get(target.name))
    return [asdict(one) for one in made]


async def _of_target(
    target: Target, tools: Sequence[Tool], asked: Asked, tenant: str | None, told: str | None
) -> list[Finding]:
    def every(state: State, reason: str | None = None) -> list[Finding]:
        return [
            Finding(state=state, target=target.name, tool=one.name, reason=reason) for one in tools
        ]

    try:
        async with opened(target, tenant) as opening:
            found = await asked.found(opening, told)
    except (BadRequestError, OSError) as error:
        return every(State.UNREADABLE, str(error))
    if found is None:
        return every(State.NO_SOURCE)
    now = {one.key: one for one in found if isinstance(one, Draft)}
    skipped = {one.source: one.reason for one in found if isinstance(one, Skipped)}
    made = [_of_tool(target, one, now, asked) for one in tools]
    known = {asked.key_of(one.adapter.mapping) for one in tools if one.adapter}
    new = [one for key, one in now.items() if key not in known]
    made += [Finding(state=State.NEW, target=target.name, tool=one.source) for one in new]
    return made + [
        Finding(state=State.NEW, target=target.name, tool=source, reason=reason)
        for source, reason in skipped.items()
        if source not in known
    ]


def _of_tool(target: Target, tool: Tool, now: Mapping[str, Draft], asked: Asked) -> Finding:
    assert tool.adapter is not None
    mapping = tool.adapter.mapping
    reviewed = mapping.get("digest")
    draft = now.get(asked.key_of(mapping))
    found = None if draft is None else str(draft.mapping["digest"])
    if reviewed is None:
        state = State.UNPINNED
    elif draft is None:
        state = State.GONE
    else:
        state = State.SAME if found == reviewed else State.CHANGED
    return Finding(
        state=state,
        target=target.name,
        tool=tool.name,
        reviewed=reviewed,
        now=found,
        differs=_differs(tool, draft) if draft is not None and state is State.CHANGED else (),
    )


def _differs(tool: Tool, draft: Draft) -> tuple[str, ...]:
    """Where to look; the reviewer may have written some of it anew."""
    pairs = {
        "title": (tool.title, draft.title),
        "description": (tool.description, draft.description),
        "input_schema": (tool.input_schema, Taken(draft.input_schema).schema),
        "output_schema": (tool.output_schema, Taken(draft.output_schema or {}).schema),
        "annotations": (dict(tool.annotations), dict(draft.annotations)),
    }
    return tuple(
        name for name, (ours, theirs) in pairs.items() if (ours or None) != (theirs or None)
    )

"""From a source to a catalog to review: names, and policies that are safe until somebody relaxes
them.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import ValidationError

from app.catalog.file import TargetEntry, ToolEntry, check_adapters
from app.catalog.policy import NAME_MAX
from app.cli.imports.draft import Draft, Skipped, Source
from app.cli.imports.schemas import Taken
from app.errors import BadRequestError, cut
from app.json_values import JsonRefusedError, checked

ATTEMPTS: Final = 3
MARK: Final = 8
"""Hexadecimal digits that tell two names apart."""
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
HINTS: Final = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A tool's entry of the file, and what is said above it."""

    entry: Mapping[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A catalog to review."""

    told: str
    target: Mapping[str, Any]
    entries: list[Entry]
    skipped: list[Skipped]
    notes: tuple[str, ...]

    @property
    def catalog(self) -> dict[str, Any]:
        """The file's value."""
        tools = [dict(one.entry) for one in self.entries]
        return {"tools": tools, "targets": [dict(self.target)]}


def made(source: Source, name: str | None) -> Made:
    """A source's catalog, under a name of ours for it.

    Raises:
        BadRequestError: the name, or the target, is none that the catalog takes.
    """
    tool = name or plain(source.name)[:32].strip("_-") or "imported"
    if not NAME.fullmatch(tool):
        raise BadRequestError(f"--name: {tool!r} is not of the form {NAME.pattern}")
    target = {"name": tool, **source.target}
    try:
        at = TargetEntry.model_validate(target)
    except ValidationError as error:
        raise BadRequestError(f"the target: {_first(error)}") from error
    drafts = [one for one in source.found if isinstance(one, Draft)]
    methods = names(tool, {one.source: one.short or one.source for one in drafts})
    entries: list[Entry] = []
    skipped = [one for one in source.found if isinstance(one, Skipped)]
    for draft in drafts:
        found = _entry(draft, tool, methods[draft.source], at)
        skipped += [found] if isinstance(found, Skipped) else []
        entries += [found] if isinstance(found, Entry) else []
    return Made(
        told=source.told, target=target, entries=entries, skipped=skipped, notes=source.notes
    )


def plain(name: str) -> str:
    """A name in the letters that MCP lets a tool's name have."""
    return re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9_-]", "_", name)).strip("_-")


def names(tool: str, sources: Mapping[str, str]) -> dict[str, str]:
    """Our method for each name of the source, by what is enough of it; each is another one.

    A name that had to be altered beyond its letters ends in a digest of what it was, so that the
    next import finds the same one.
    """
    room = NAME_MAX - len(tool) - 1
    bare = {one: plain(short).removeprefix(f"{tool}_") or "call" for one, short in sources.items()}
    times = Counter(one.lower() for one in bare.values())
    found: dict[str, str] = {}
    for source, method in bare.items():
        alone = times[method.lower()] == 1 or method == source
        if alone and len(method) <= room:
            found[source] = method
        else:
            mark = hashlib.sha256(source.encode()).hexdigest()[:MARK]
            found[source] = f"{method[: room - MARK - 1]}_{mark}"
    return found


def policy_of(draft: Draft) -> dict[str, Any]:
    """Nothing is repeated that is not known to bear it; what may destroy asks a person first."""
    repeatable = draft.idempotent or draft.read_only
    policy: dict[str, Any] = {
        "idempotent": repeatable,
        "retry": {"attempts_max": ATTEMPTS if repeatable else 1},
    }
    if draft.destructive:
        policy["approval"] = "ask"
    return policy


def _entry(draft: Draft, tool: str, method: str, target: TargetEntry) -> Entry | Skipped:
    """The entry, without its output schema where the catalog does not take that."""
    notes = [*draft.notes, *_hidden(draft)]
    asked = Taken(draft.input_schema)
    if asked.patterns:
        notes.append("A pattern of its arguments is left out, which the catalog does not take.")
    if asked.secrets:
        shown = ", ".join(sorted(set(asked.secrets)))
        notes.append(f"Looks secret, so it stays out of the audit trail (x-sensitive): {shown}.")
    answers = None if draft.output_schema is None else Taken(draft.output_schema).schema
    if method != (draft.short or draft.source).removeprefix(f"{tool}_"):
        notes.append(f"The source's name of it is {draft.source!r}.")
    given = {
        "tool": tool,
        "method": method,
        "title": draft.title,
        "description": draft.description or f"{draft.source}, of which its source says no more.",
        "annotations": {
            name: draft.annotations[name] for name in HINTS if name in draft.annotations
        },
        "input_schema": asked.schema,
        "output_schema": answers,
        "policy": policy_of(draft),
        "adapter": {"kind": target.kind, "target": tool, **draft.mapping},
    }
    entry = {name: one for name, one in given.items() if one not in ("", None, {})}
    try:
        checked(entry)
        read = ToolEntry.model_validate(entry)
        check_adapters([read], [target.made()])
    except ValidationError as error:
        if draft.output_schema is not None and "output_schema" in str(error):
            words = f"Its output schema is left out: {_first(error)}"
            again = replace(draft, output_schema=None, notes=(*draft.notes, words))
            return _entry(again, tool, method, target)
        return Skipped(source=draft.source, reason=_first(error))
    except (BadRequestError, JsonRefusedError) as error:
        return Skipped(source=draft.source, reason=str(error))
    return Entry(entry=entry, notes=tuple(notes))


def _hidden(draft: Draft) -> Iterator[str]:
    """Characters that a reviewer does not see and a model reads."""
    texts = _texts([draft.title, draft.description, draft.input_schema, draft.output_schema])
    found = sorted({one for text in texts for one in set(text) if _unseen(one)})
    if found:
        shown = ", ".join(f"U+{ord(one):04X}" for one in found[:5])
        yield f"Its texts have characters that are not seen ({shown}): read them with care."


def _unseen(one: str) -> bool:
    return unicodedata.category(one) in ("Cf", "Co", "Cn", "Cc") and one not in "\n\t\r"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield str(name)
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def _first(error: ValidationError) -> str:
    one = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, one["loc"]))
    words = str(one["msg"]).removeprefix("Value error, ")
    return cut(f"{where}: {words}" if where else words)

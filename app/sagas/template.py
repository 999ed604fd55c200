"""References in a saga's arguments: `{{ input.x }}`, `{{ steps.id.result }}` and others; pure.

There is no expression language. A text is read once and what a reference brings in is never read
for references again, so no caller's value can become one.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

OPEN: Final = "{{"
REFERENCE: Final = re.compile(r"\{\{\s*([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\s*\}\}")
ROOTS: Final = ("input", "steps", "saga")
"""`steps`, the step's id, `result`."""
FILLED_CHARS_MAX: Final = 4 << 20
"""What all references of one value may bring in: as much as the largest result has."""
PLACE_DIGITS_MAX: Final = 9
"""Of a place in a list; to `int` more of them are no number at all."""


class TemplateError(Exception):
    """A reference that is malformed or names nothing; the message says where and what to do."""

    def __init__(self, at: str, problem: str) -> None:
        super().__init__(f"{at}: {problem}" if at else problem)
        self.at = at
        self.problem = problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One `{{ … }}`: its dotted path, where it stands, and whether it is all of its text."""

    path: tuple[str, ...]
    at: tuple[str | int, ...]
    whole: bool

    @property
    def step(self) -> str | None:
        """The step whose result is meant."""
        return self.path[1] if self.path[0] == "steps" else None

    def __str__(self) -> str:
        return "{{ " + ".".join(self.path) + " }}"


@dataclass(slots=True)
class Room:
    """How much references may still bring in, together.

    Without it a few kilobytes of references to one large value would be gigabytes.
    """

    left: int = FILLED_CHARS_MAX
    _sizes: dict[int, tuple[Any, int]] = field(default_factory=dict[int, tuple[Any, int]])

    def take(self, value: Any) -> bool:
        """Whether there was room for one more copy of this value, as JSON."""
        if isinstance(value, str):
            size = len(value)
        else:
            # Of each value once. It is kept, so that its id stays its own.
            known = self._sizes.get(id(value))
            _, size = known or self._sizes.setdefault(id(value), (value, len(_as_text(value))))
        self.left -= 1 + size
        return self.left >= 0


def where(at: Sequence[str | int]) -> str:
    """A place in JSON as people write it: `args.names[0]`."""
    path = ""
    for part in at:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def references(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[Reference]:
    """Every reference in a JSON value, in its order.

    Raises:
        TemplateError: a `{{` that begins none, a root that is not known, or one in a name.
    """
    match value:
        case str():
            yield from _in_text(value, at)
        case Mapping():
            for name, item in value.items():
                if OPEN in name:
                    raise TemplateError(where(at), f"the name {name!r} may hold no reference")
                yield from references(item, (*at, name))
        case list() | tuple():
            for index, item in enumerate(value):
                yield from references(item, (*at, index))
        case _:
            return


def _in_text(text: str, at: tuple[str | int, ...]) -> Iterator[Reference]:
    found = list(REFERENCE.finditer(text))
    if text.count(OPEN) != len(found):
        problem = (
            f"{text!r} holds a '{{{{' that begins no reference; write {{{{ input.name }}}},"
            " {{ steps.id.result.name }} or {{ saga.id }}, and pass other text as input"
        )
        raise TemplateError(where(at), problem)
    for one in found:
        path = tuple(one[1].split("."))
        _check(path, at)
        yield Reference(path=path, at=at, whole=one[0] == text)


def _check(path: tuple[str, ...], at: tuple[str | int, ...]) -> None:
    written = "{{ " + ".".join(path) + " }}"
    match path:
        case ("input", *_) | ("saga", "id"):
            return
        case ("steps", _, "result", *_):
            return
        case ("steps", *_):
            problem = f"{written} is no reference; write {{{{ steps.id.result }}}} or a part of it"
        case ("saga", *_):
            problem = f"{written} is not known; a saga has its id only: {{{{ saga.id }}}}"
        case _:
            problem = f"{written} begins with none of {', '.join(ROOTS)}"
    raise TemplateError(where(at), problem)


def check(value: Any, scope: Mapping[str, Any], *, keep: frozenset[str] = frozenset()) -> None:
    """Look up what `render` would fill in, without making anything of it.

    Raises:
        TemplateError: as `render`.
    """
    room = Room()
    for one in references(value):
        if one.path[0] not in keep:
            _look_up(one, scope, room)


def render(
    value: Any,
    scope: Mapping[str, Any],
    *,
    keep: frozenset[str] = frozenset(),
    room: Room | None = None,
) -> Any:
    """A copy of a JSON value with its references filled in from `scope`.

    A reference that is all of its text keeps the JSON type of what it names; within other text
    a string is put in as it is and anything else as JSON. `scope` looks like
    `{"input": …, "steps": {id: {"result": …}}, "saga": {"id": …}}`; references whose root is in
    `keep` stay as they are written. `room` is shared by values that are kept together.

    Raises:
        TemplateError: a reference that is malformed, or whose value is missing; or together they
            bring in more than there is room for.
    """
    return _render(value, scope, keep, (), Room() if room is None else room)


def _render(
    value: Any,
    scope: Mapping[str, Any],
    keep: frozenset[str],
    at: tuple[str | int, ...],
    room: Room,
) -> Any:
    match value:
        case str():
            return _render_text(value, scope, keep, at, room)
        case Mapping():
            return {
                name: _render(item, scope, keep, (*at, name), room) for name, item in value.items()
            }
        case list() | tuple():
            return [
                _render(item, scope, keep, (*at, index), room) for index, item in enumerate(value)
            ]
        case _:
            return value


def _render_text(
    text: str,
    scope: Mapping[str, Any],
    keep: frozenset[str],
    at: tuple[str | int, ...],
    room: Room,
) -> Any:
    found = list(_in_text(text, at))
    if found and found[0].whole:
        return text if found[0].path[0] in keep else _look_up(found[0], scope, room)
    # One pass: what a value holds is never taken for a reference.
    values = iter(found)

    def filled(match: re.Match[str]) -> str:
        one = next(values)
        return match[0] if one.path[0] in keep else _as_text(_look_up(one, scope, room))

    return REFERENCE.sub(filled, text)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _look_up(reference: Reference, scope: Mapping[str, Any], room: Room) -> Any:
    found: Any = scope
    for depth, part in enumerate(reference.path):
        if isinstance(found, Mapping) and part in found:
            found = found[part]
        elif isinstance(found, list) and _names(part, found):
            found = found[int(part)]
        else:
            missing = ".".join(reference.path[: depth + 1])
            raise TemplateError(where(reference.at), f"{reference}: there is no {missing}")
    if not room.take(found):
        problem = f"what references bring in has over {FILLED_CHARS_MAX} characters"
        raise TemplateError(where(reference.at), problem)
    return found


def _names(part: str, found: Sequence[Any]) -> bool:
    """Whether a part of a path is the number of an item, from 0."""
    digits = part.isascii() and part.isdecimal() and len(part) <= PLACE_DIGITS_MAX
    return digits and int(part) < len(found)

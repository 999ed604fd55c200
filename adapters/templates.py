"""What a tool's mapping makes of a call's arguments: texts and JSON with `{name}` in them.

`{name}` stands for an argument, `{a.b}` for a member of one, `{{` and `}}` for braces. Nothing is
evaluated: a value is put in its place, and the place says how it is quoted there.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

import orjson

from adapters.contract import INVALID_ARGUMENTS, CallFailedError, Known

_PART: Final = re.compile(r"\{\{|\}\}|\{([A-Za-z0-9_][A-Za-z0-9_.-]*)\}|[{}]|[^{}]+")


class MissingError(LookupError):
    """A template names an argument that the call has not (or has as null)."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class TemplateError(ValueError):
    """A template has a brace that is neither doubled nor around a name."""


@lru_cache(maxsize=4096)
def parts(template: str) -> tuple[tuple[bool, str], ...]:
    """A template's pieces: whether it is a name, and the name or the literal text."""
    found: list[tuple[bool, str]] = []
    for one in _PART.finditer(template):
        text = one[0]
        if one[1] is not None:
            found.append((True, one[1]))
        elif text in ("{", "}"):
            raise TemplateError(f"{template!r} has a single brace: double it, or name an argument")
        else:
            found.append((False, {"{{": "{", "}}": "}"}.get(text, text)))
    return tuple(found)


def look_up(args: Mapping[str, Any], name: str) -> Any:
    """The argument that a name stands for.

    Raises:
        MissingError: there is none, or it is null.
    """
    found: Any = args
    if name in args:
        found = args[name]
    else:
        for part in name.split("."):
            if not isinstance(found, Mapping) or part not in found:
                raise MissingError(name)
            found = found[part]
    if found is None:
        raise MissingError(name)
    return found


def as_text(value: Any) -> str:
    """A value within a text: a text as it is, all else as JSON has it."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def text(template: str, args: Mapping[str, Any], quote: Callable[[str], str] | None = None) -> str:
    """A text; `quote` is how a value is written at this place.

    Raises:
        MissingError: the call lacks an argument that it names.
    """
    said: list[str] = []
    for named, part in parts(template):
        value = as_text(look_up(args, part)) if named else part
        said.append(quote(value) if named and quote is not None else value)
    return "".join(said)


def json_value(template: Any, args: Mapping[str, Any]) -> Any:
    """JSON: a text that is one name and no more becomes the argument itself, of its own type.

    A member or an item whose text names an argument that the call lacks is left out.

    Raises:
        MissingError: the template is a text, and names such an argument.
    """
    if isinstance(template, str):
        pieces = parts(template)
        if len(pieces) == 1 and pieces[0][0]:
            return look_up(args, pieces[0][1])
        return text(template, args)
    if isinstance(template, Mapping):
        return dict(_present(template.items(), args))
    if isinstance(template, list):
        return [one for _, one in _present(enumerate(template), args)]
    return template


def _present(items: Any, args: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    for name, one in items:
        try:
            yield name, json_value(one, args)
        except MissingError:
            continue


def problem(template: Any) -> str | None:
    """What is wrong with a template, a text's or JSON's."""
    try:
        for one in _texts(template):
            parts(one)
    except TemplateError as error:
        return str(error)
    return None


def missing(error: MissingError) -> CallFailedError:
    """A call that lacks an argument which its mapping needs."""
    words = f"The tool's mapping needs the argument {error.name}, and the call has none."
    return CallFailedError(Known.REFUSED, INVALID_ARGUMENTS, words)


def _texts(template: Any) -> Iterator[str]:
    if isinstance(template, str):
        yield template
    elif isinstance(template, Mapping):
        for one in template.values():
            yield from _texts(one)
    elif isinstance(template, list):
        for one in template:
            yield from _texts(one)

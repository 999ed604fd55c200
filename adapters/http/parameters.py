"""OpenAPI's ways to write a parameter: `style` and `explode`, by where it stands."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from adapters.templates import as_text

Pair = tuple[str, str]
Quote = Callable[[str], str]

STYLES: Final[Mapping[str, tuple[str, ...]]] = {
    "path": ("simple", "label", "matrix"),
    "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
    "header": ("simple",),
    "cookie": ("form",),
}
"""Of each place; the first is its default."""
DELIMITERS: Final[Mapping[str, str]] = {"form": ",", "spaceDelimited": "%20", "pipeDelimited": "|"}
RESERVED: Final = ":/?#[]@!$&'()*+,;="


def explodes(parameter: Mapping[str, Any]) -> bool:
    """Whether the items of a list, or an object's members, stand apart."""
    return bool(parameter.get("explode", style_of(parameter) in ("form", "deepObject")))


def style_of(parameter: Mapping[str, Any]) -> str:
    """Its style, or the one of its place."""
    return parameter.get("style") or STYLES[parameter["in"]][0]


def in_path(parameter: Mapping[str, Any], value: Any) -> str:
    """A value as it stands in the path, quoted."""
    name, explode, style = parameter["name"], explodes(parameter), style_of(parameter)
    if style == "matrix":
        return "".join(_matrix(name, value, explode=explode))
    if style == "label":
        return "." + _simple(value, "." if explode else ",", explode=explode)
    return _simple(value, ",", explode=explode)


def in_header(parameter: Mapping[str, Any], value: Any) -> str:
    """A value as a header has it; not quoted."""
    return _simple(value, ",", explode=explodes(parameter), quoted=as_text)


def in_query(parameter: Mapping[str, Any], value: Any) -> Iterator[Pair]:
    """Names and values, each quoted already (as `allowReserved` and the delimiters need)."""
    allowed = RESERVED if parameter.get("allow_reserved") else ""

    def quoted(one: Any) -> str:
        return quote(as_text(one), safe=allowed)

    name, explode, style = quote(parameter["name"]), explodes(parameter), style_of(parameter)
    if parameter.get("json"):
        yield name, quoted(value)
    elif isinstance(value, Mapping):
        if style == "deepObject":
            yield from _deep(name, value, quoted)
        elif explode:
            for key, one in value.items():
                yield quote(key), quoted(one)
        else:
            yield (
                name,
                DELIMITERS[style].join(quoted(one) for pair in value.items() for one in pair),
            )
    elif isinstance(value, list):
        if explode or style == "deepObject":
            for one in value:
                yield name, quoted(one)
        else:
            yield name, DELIMITERS[style].join(map(quoted, value))
    else:
        yield name, quoted(value)


def _deep(name: str, value: Mapping[str, Any], quoted: Quote) -> Iterator[Pair]:
    for key, one in value.items():
        inner = f"{name}[{quote(key)}]"
        if isinstance(one, Mapping):
            yield from _deep(inner, one, quoted)
        elif isinstance(one, list):
            for item in one:
                yield inner, quoted(item)
        else:
            yield inner, quoted(one)


def _simple(value: Any, between: str, *, explode: bool, quoted: Quote | None = None) -> str:
    put = quoted or _in_segment
    if isinstance(value, Mapping):
        if explode:
            return between.join(f"{put(key)}={put(one)}" for key, one in value.items())
        return between.join(put(one) for pair in value.items() for one in pair)
    if isinstance(value, list):
        return between.join(map(put, value))
    return put(value)


def _matrix(name: str, value: Any, *, explode: bool) -> Iterator[str]:
    if explode and isinstance(value, Mapping):
        for key, one in value.items():
            yield f";{_in_segment(key)}={_in_segment(one)}"
    elif explode and isinstance(value, list):
        for one in value:
            yield f";{name}={_in_segment(one)}"
    else:
        yield f";{name}={_simple(value, ',', explode=False)}"


def _in_segment(value: Any) -> str:
    return quote(as_text(value), safe="")

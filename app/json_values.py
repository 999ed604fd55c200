"""Which JSON is taken, at every entrance alike: what is kept comes back as it was sent.

What would come back as something else is refused with its place and its reason: numbers that no
reader agrees on, a name that stands twice, texts that no database keeps, nesting that some later
reader of the same value would break at.
"""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from math import isfinite
from typing import Annotated, Any, Final

import orjson
from pydantic import AfterValidator

DEPTH_MAX: Final = 64
"""Levels of objects and lists in a value: the value of `{"a": 1}` has one.

Wherever a value is shown it stands within a few more (a result, a list, an audit bundle, JSON-RPC),
and the strictest of those readers stops at 128.
"""
BODY_DEPTH_MAX: Final = DEPTH_MAX + 8
"""Levels of a request's body, so that it can carry a value of the greatest depth."""
SHOWN_DEPTH_MAX: Final = DEPTH_MAX + 16
"""Levels of a value that is shown: a few more than what is taken, as a saga's result holds its
steps' and an audit event what it tells of."""
INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**64 - 1
INTEGER_DIGITS: Final = len(str(INTEGER_MAX))
AT_MAX: Final = 200
"""Characters of a place in an error's words; a name can be as long as a body."""

INTEGRAL: Final = re.compile(rb"[0-9](?:\.0(?![0-9])|e[+0-9])")
"""What a float that is a whole number has in JSON text, and some strings have too."""
SURROGATE: Final = re.compile("[\ud800-\udfff]")


STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')
ROUND: Final = bytes.maketrans(b"[{]}", b"(())")
NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[{]}"))
NOT_SHOWN: Final = (
    f"This value is nested deeper than {SHOWN_DEPTH_MAX} levels, which is not taken any more, and"
    " which not every reader can read. The database has it as it was."
)
"""What stands in answers for a value that an earlier release kept."""


class JsonRefusedError(ValueError):
    """This is JSON, or nearly, and is not taken: where, and why."""

    def __init__(self, problem: str, at: str = "") -> None:
        self.problem = problem
        self.at = at if len(at) <= AT_MAX else f"{at[:AT_MAX]}…"
        super().__init__(f"{self.at}: {problem}" if at else problem)


class JsonUnreadableError(ValueError):
    """This is no JSON text in UTF-8."""


def loads(body: bytes, *, depth_max: int = BODY_DEPTH_MAX) -> Any:
    """The value of a JSON text, where it is one that is kept as it was sent.

    Raises:
        JsonUnreadableError: it is no JSON, or not UTF-8 (RFC 8259, 8.1: no other, and no mark).
        JsonRefusedError: it is, and holds what is not taken.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise JsonUnreadableError("the body is not UTF-8, the only encoding of JSON") from error
    if text.startswith("\ufeff"):
        raise JsonUnreadableError("the body begins with a byte order mark; send plain UTF-8")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno} column {error.colno}"
        raise JsonUnreadableError(f"the body is not JSON: {error.msg}, {at}") from error
    except RecursionError as error:
        raise _too_deep(depth_max) from error
    # Nothing that reads the text can make these, but for what it escapes or how deep it is.
    if "\\u" in text or _brackets(body) > depth_max:
        _check(value, depth_max)
    return value


def checked(value: Any, *, depth_max: int = DEPTH_MAX) -> bytes:
    """The JSON text of a value that is kept as it is.

    Raises:
        JsonRefusedError: it is not; where, and why.
    """
    try:
        written = orjson.dumps(value)
    except TypeError as error:
        _check(value, depth_max)
        raise JsonRefusedError(f"it is not plain JSON: {error}") from error
    # Only these texts can hide what the writer takes and a reader or a database would not.
    if b"null" in written or b"\\u0000" in written or _brackets(written) > depth_max:
        _check(value, depth_max)
    return written


def integral(value: Any, written: bytes) -> Any:
    """The value with each whole number as an integer: to JSON Schema `1.0` and `1` are one.

    `written` is its text. What does not fit 64 bits stays a float.
    """
    return _integral(value) if INTEGRAL.search(written) else value


def showable(value: Any) -> Any:
    """The value, or what is shown for one that readers would break at: early releases kept those.

    Of an error its code and message are shown still.
    """
    try:
        written = orjson.dumps(value)
    except TypeError:  # 254 levels are too many for the writer
        return _not_shown(value)
    return _not_shown(value) if _is_deeper(written, SHOWN_DEPTH_MAX) else value


def read(text: str | bytes) -> Any:
    """A value that the database keeps, or what is shown for one that is too deep to be read."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # PostgreSQL holds more than the reader's 1024 levels
        return {"not_shown": NOT_SHOWN}


def plain(text: str) -> str:
    """The text, where a database keeps it.

    Raises:
        ValueError: it holds a NUL, or half of a character.
    """
    problem = _text_problem(text)
    if problem is not None:
        raise ValueError(problem)
    return text


def _kept(value: Any) -> Any:
    checked(value)
    return value


KeptValue = Annotated[Any, AfterValidator(_kept)]
"""A field of any JSON value that is kept as it was sent."""
KeptObject = Annotated[dict[str, Any], AfterValidator(_kept)]
"""A field of a JSON object that is kept as it was sent."""
PlainText = Annotated[str, AfterValidator(plain)]
"""A field of a text that a database keeps."""


def _check(value: Any, depth_max: int) -> None:
    """Look at every value; no recursion, as its depth is what is in doubt."""
    levels: list[Iterator[tuple[Any, Any]]] = [iter([("", value)])]
    path: list[Any] = []
    while levels:
        step = next(levels[-1], None)
        if step is None:
            levels.pop()
            del path[len(levels) - 1 :]
            continue
        name, one = step
        path[len(levels) - 1 :] = [name]
        if problem := _problem(name, one):
            raise JsonRefusedError(problem, _pointer(path))
        if isinstance(one, Mapping | list | tuple):
            if len(levels) > depth_max:
                raise _too_deep(depth_max)
            pairs: Any = one.items() if isinstance(one, Mapping) else enumerate(one)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            levels.append(iter(pairs))


def _problem(name: Any, value: Any) -> str | None:
    match value:
        case str():
            problem = _text_problem(value)
        case bool():
            problem = None
        case float():
            problem = None if isfinite(value) else "NaN and infinity are not JSON"
        case int():
            fits = INTEGER_MIN <= value <= INTEGER_MAX
            problem = None if fits else "an integer of more than 64 bits; send it as a string"
        case _:
            problem = None
    if problem is None and isinstance(name, str) and (problem_of_name := _text_problem(name)):
        return f"its name: {problem_of_name}"
    return problem


def _text_problem(text: str) -> str | None:
    if "\0" in text:
        return "a text with a NUL character (U+0000), which is not kept; encode it"
    if SURROGATE.search(text):
        return "a text with half of a surrogate pair, which is no character; encode it"
    return None


def _pointer(path: list[Any]) -> str:
    parts = (str(one).replace("~", "~0").replace("/", "~1") for one in islice(path, 1, 32))
    shown = "/".join(chain([""], parts))
    return shown.encode(errors="replace").decode().replace("\0", "\\u0000")


def _too_deep(depth_max: int) -> JsonRefusedError:
    return JsonRefusedError(f"nested deeper than {depth_max} levels; send it flatter, or as a text")


def _brackets(written: bytes) -> int:
    """No text is deeper than it has these."""
    return written.count(b"[") + written.count(b"{")


def _is_deeper(written: bytes, depth_max: int) -> bool:
    """Whether a JSON text nests deeper; without a walk through its values."""
    if _brackets(written) <= depth_max:
        return False
    left = STRING.sub(b"", written).translate(ROUND, NO_BRACKETS)
    for _ in range(depth_max):
        left = left.replace(b"()", b"")  # the innermost level
    return bool(left)


def _not_shown(value: Any) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    if isinstance(value, dict):
        said: Mapping[Any, Any] = value  # pyright: ignore[reportUnknownVariableType]
        kept = {name: said[name] for name in ("code", "message") if isinstance(said.get(name), str)}
    return kept | {"not_shown": NOT_SHOWN}


def _integral(value: Any) -> Any:
    match value:
        case dict():
            return {name: _integral(one) for name, one in value.items()}  # pyright: ignore[reportUnknownVariableType]
        case list():
            return [_integral(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
        case float() if value.is_integer() and INTEGER_MIN <= value <= INTEGER_MAX:
            return int(value)
        case _:
            return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen = set[str]()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        shown = twice[:AT_MAX].encode(errors="replace").decode()
        raise JsonRefusedError(f"the name {shown!r} stands twice in one object")
    return made


def _no_constant(literal: str) -> None:
    raise JsonRefusedError(f"{literal} is not JSON; leave it out or send null")


def _number(literal: str) -> float:
    number = float(literal)
    if not isfinite(number):
        raise JsonRefusedError(f"the number {literal[:AT_MAX]} is beyond what JSON readers hold")
    return number


def _integer(literal: str) -> int:
    # The digits first: to read a million of them takes a while.
    number = int(literal) if len(literal) <= INTEGER_DIGITS + 1 else INTEGER_MAX + 1
    if not INTEGER_MIN <= number <= INTEGER_MAX:
        shown = literal if len(literal) <= AT_MAX else f"{literal[:AT_MAX]}…"
        raise JsonRefusedError(f"the integer {shown} has more than 64 bits; send it as a string")
    return number


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_once,
    parse_constant=_no_constant,
    parse_float=_number,
    parse_int=_integer,
)

"""A program's argv, of a tool's mapping and a call's arguments; there is no shell to quote for."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from adapters import templates
from adapters.contract import invalid_arguments

ARGUMENT_BYTES_MAX: Final = 128 * 1024 - 1
"""What Linux takes of one argument."""
ARGUMENTS_BYTES_MAX: Final = 1024 * 1024
END_OF_OPTIONS: Final = "--"


def argv(program: str, mapping: Mapping[str, Any], args: Mapping[str, Any]) -> list[str]:
    """The program and its arguments.

    In the mapping's `args`, a text is one argument; a list is a group, left out where the call
    lacks an argument that it names; `{"each": name, "args": […]}` is a group for each item of a
    list, which is `{item}` in it.

    Raises:
        CallFailedError: the call lacks an argument, or has one that cannot be passed on.
    """
    try:
        found = [program, *_of(mapping.get("args", ()), args, ended=[])]
    except templates.MissingError as error:
        raise templates.missing(error) from None
    if sum(map(len, found)) > ARGUMENTS_BYTES_MAX:
        raise invalid_arguments(
            "The arguments are too long for a command line; give them by stdin."
        )
    return found


def problems(given: Any) -> Iterator[str]:
    """What is wrong with a mapping's `args`."""
    if not isinstance(given, list):
        yield "adapter.args must be a list of texts, lists and objects with each and args"
        return
    for one in given:
        if isinstance(one, Mapping):
            if set(one) != {"each", "args"} or not isinstance(one["each"], str):
                yield "an object in adapter.args has each, an argument's name, and args"
                continue
            yield from problems(one["args"])
        elif isinstance(one, list):
            yield from problems(one)
        elif not isinstance(one, str):
            yield f"adapter.args has {one!r}, which is no text"
        elif (wrong := templates.problem(one)) is not None:
            yield wrong


def _of(given: Any, args: Mapping[str, Any], ended: list[bool]) -> Iterator[str]:
    """`ended` is not empty once `--` was said: what follows is no option to most programs."""
    for one in given:
        if isinstance(one, str):
            yield _argument(one, args, ended=bool(ended))
            if one == END_OF_OPTIONS:
                ended.append(True)
        elif isinstance(one, list):
            try:
                yield from list(_of(one, args, ended))
            except templates.MissingError:
                continue
        else:
            yield from _each(one, args, ended)


def _each(group: Mapping[str, Any], args: Mapping[str, Any], ended: list[bool]) -> Iterator[str]:
    try:
        items = templates.look_up(args, group["each"])
    except templates.MissingError:
        return
    if not isinstance(items, list):
        raise invalid_arguments(f"The argument {group['each']} must be a list.")
    for item in items:
        yield from _of(group["args"], {**args, "item": item}, ended)


def _argument(template: str, args: Mapping[str, Any], *, ended: bool) -> str:
    made = templates.text(template, args)
    pieces = templates.parts(template)
    if pieces and pieces[0][0] and not ended:
        first = templates.look_up(args, pieces[0][1])
        if made.startswith("-") and not isinstance(first, int | float):
            raise invalid_arguments(
                f"The argument {pieces[0][1]} begins with a dash, which the program could take for"
                " an option."
            )
    if "\0" in made:
        raise invalid_arguments("An argument holds a NUL character, which no command line can.")
    try:
        size = len(made.encode())
    except UnicodeEncodeError:
        raise invalid_arguments("An argument holds half a surrogate pair.") from None
    if size > ARGUMENT_BYTES_MAX:
        raise invalid_arguments("An argument is too long for a command line; give it by stdin.")
    return made

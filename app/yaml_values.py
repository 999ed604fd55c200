"""JSON or YAML as plain data: what is JSON is read as JSON, and YAML is held to what JSON can say.

A date stays the text that was written, no name stands twice, and nothing grows by its aliases.
"""

from collections import Counter
from typing import Any, Final

import yaml

from app.json_values import JsonRefusedError, JsonUnreadableError, loads

VALUES_MAX: Final = 1_000_000
"""Values that a text may have, its aliases written out."""


class YamlRefusedError(ValueError):
    """This text is not taken: where in its value, where that is known, and why."""

    def __init__(self, problem: str, at: tuple[str | int, ...] = ()) -> None:
        self.problem = problem
        self.at = at
        super().__init__(problem)


class _Loader(yaml.SafeLoader):
    """YAML that is JSON."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node. Raises ConstructorError where a name stands twice in it."""
        names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for name, times in names.most_common(1):
            if times > 1:
                said = f"{name[:100]!r} stands twice"
                raise yaml.constructor.ConstructorError(problem=said, problem_mark=node.start_mark)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(text: str | bytes, *, bytes_max: int, depth_max: int, aliases: bool) -> Any:
    """The value of a text, not checked for what JSON keeps (`json_values.checked`) if it is YAML.

    `aliases`: whether `*name` may stand in it.

    Raises:
        YamlRefusedError: it is neither JSON nor YAML, or more than may be.
    """
    if len(text) > bytes_max:
        raise YamlRefusedError(f"it has {len(text)} bytes; at most {bytes_max} are taken")
    written = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    try:
        return loads(written, depth_max=depth_max)
    except JsonRefusedError as error:
        at = tuple(int(one) if one.isdecimal() else one for one in error.at.split("/")[1:])
        raise YamlRefusedError(error.problem, at) from error
    except JsonUnreadableError:
        pass  # it may be YAML
    try:
        _bound(text, depth_max=depth_max, aliases=aliases)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 a subclass of SafeLoader
    except YamlRefusedError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise YamlRefusedError(f"it is neither JSON nor YAML: {error}") from error


def _bound(text: str | bytes, *, depth_max: int, aliases: bool) -> None:
    """Read the text's events before anything is made of them.

    An alias of an alias of … is how a short text becomes gigabytes; and what is nested deeply takes
    the parser the square of its depth, so it is left as soon as it is too deep.
    """
    open_: list[tuple[str | None, int]] = [(None, 0)]
    sizes: dict[str | None, int] = {}
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1
        match event:
            case yaml.AliasEvent() if not aliases:
                raise YamlRefusedError(f"line {line}: write YAML aliases (*name) out in full")
            case yaml.AliasEvent():
                if event.anchor not in sizes:
                    raise YamlRefusedError(f"line {line}: *{event.anchor} is not there yet")
                size = sizes[event.anchor]
            case yaml.CollectionStartEvent():
                open_.append((event.anchor, 0))
                if len(open_) - 1 > depth_max:
                    raise YamlRefusedError(
                        f"line {line}: it is nested deeper than {depth_max} levels"
                    )
                continue
            case yaml.CollectionEndEvent():
                anchor, inside = open_.pop()
                size = sizes[anchor] = inside + 1
            case yaml.ScalarEvent():
                size = sizes[event.anchor] = 1
            case _:
                continue
        anchor, inside = open_[-1]
        open_[-1] = (anchor, inside + size)
        if inside + size > VALUES_MAX:
            raise YamlRefusedError(f"line {line}: it has more than {VALUES_MAX} values")

"""Which references of a definition may bring in what a schema marks; pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from app.catalog.policy import Tool
from app.catalog.redaction import MARK, hides, marks, reaches
from app.sagas.definition import Call, Definition
from app.sagas.template import Reference, references

Find = Callable[[Call], Tool | None]
"""The tool of a call, None where it is not known."""
Tree = dict[str, Any]
"""Paths, by their parts; the empty name, which no part is, stands at the end of one."""

END = ""


class Marked:
    """What some schema marks, of a definition: where it comes from, or where else it goes.

    Some step may pass it, all or a part of it, to an argument that is marked; or to one that Kafka
    is not to have, if that is asked for.
    """

    def __init__(
        self, definition: Definition, find: Find, *names: str, by_reference: bool = False
    ) -> None:
        self._definition = definition
        self._find = find
        self._names = names
        self._by_reference = by_reference

    def may_be_in(self, one: Reference) -> bool:
        """Whether a reference's value may be marked."""
        if one.path[0] == "saga":
            return False
        if one.step is None:
            schema = self._definition.input_schema
            if self._input_marks and reaches(schema, one.path[1:], MARK, *self._names):
                return True
        else:
            tool = self._find(self._definition.step(one.step).call)
            output = None if tool is None else tool.output_schema
            if output is not None and hides(output, one.path[3:], *self._names):
                return True
        return _overlaps(one.path, self._passed_on)

    @cached_property
    def _input_marks(self) -> bool:
        return marks(self._definition.input_schema, MARK, *self._names)

    @cached_property
    def _passed_on(self) -> Tree:
        """What goes to marked arguments: read once, as a definition may have very many references.

        Compared with each other they would take the square of that.
        """
        made: Tree = {}
        for path in self._to_marked():
            here = made
            for part in path:
                here = here.setdefault(part, {})
            here[END] = None
        return made

    def _to_marked(self) -> Iterator[Sequence[str]]:
        for step in self._definition.steps:
            for _, call in step.calls():
                tool = self._find(call)
                if tool is None:
                    continue
                whole = self._by_reference and tool.policy.args == "by_reference"
                schema: Mapping[str, Any] = tool.input_schema
                if not whole and not marks(schema, MARK, *self._names):
                    continue
                for one in references(call.args):
                    if whole or reaches(schema, map(str, one.at), MARK, *self._names):
                        yield one.path


def _overlaps(path: Sequence[str], tree: Tree) -> bool:
    """Whether one of the tree's paths is this one, or a part of it, or has it as a part."""
    here: Tree = tree
    for part in path:
        if END in here:
            return True
        if part not in here:
            return False
        here = here[part]
    return bool(here)

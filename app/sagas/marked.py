"""Which references of a definition may bring in what a schema marks; pure."""

from collections.abc import Callable, Sequence

from app.catalog.policy import Tool
from app.catalog.redaction import hides
from app.sagas.definition import Call, Definition
from app.sagas.template import Reference, references

Find = Callable[[Call], Tool | None]
"""The tool of a call, None where it is not known."""


def may_hold(
    one: Reference, definition: Definition, find: Find, *marks: str, by_reference: bool = False
) -> bool:
    """Whether a reference's value may be marked: where it comes from, or where else it goes.

    Some step may pass it, all or a part of it, to an argument that is marked; or to one that Kafka
    is not to have, if that is asked for.
    """
    if one.path[0] == "saga":
        return False
    if one.step is None:
        if hides(definition.input_schema, one.path[1:], *marks):
            return True
    else:
        tool = find(definition.step(one.step).call)
        output = None if tool is None else tool.output_schema
        if output is not None and hides(output, one.path[3:], *marks):
            return True
    for step in definition.steps:
        for _, call in step.calls():
            tool = find(call)
            if tool is None:
                continue
            for other in references(call.args):
                at = map(str, other.at)
                if _overlap(one.path, other.path) and (
                    (by_reference and tool.policy.args == "by_reference")
                    or hides(tool.input_schema, at, *marks)
                ):
                    return True
    return False


def _overlap(one: Sequence[str], other: Sequence[str]) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]

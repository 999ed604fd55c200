"""A saga's definition against the tools its author may call, as far as is known beforehand; pure.

Constants are checked against the tools' JSON Schemas as they are; a reference is checked by the
type that the saga's input schema, or the earlier step's output schema, gives it. What no schema
tells is left to the call itself, which is checked like any other.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import jsonschema_rs

from app.catalog.patterns import kept_validator_for
from app.catalog.policy import Tool
from app.catalog.redaction import MARK, REDACTED, marks
from app.errors import InvalidArgumentsError, problems_of
from app.sagas.definition import Call, Definition, Step, StepKind
from app.sagas.marked import Marked
from app.sagas.parse import must_be_plain
from app.sagas.template import Reference, TemplateError, check, references, where

Problem = tuple[str, str]

WHOLE: Final = frozenset({"required", "additionalProperties", "type", "minItems", "maxItems"})
"""What a schema says of a container that does not depend on the values in it."""

OPAQUE: Final = ("$ref", "$dynamicRef", "anyOf", "oneOf", "allOf", "if", "not", "patternProperties")
JSON_TYPES: Final = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The tools that somebody may call, by path and by MCP name."""

    by_path: Mapping[tuple[str, str], Tool]
    by_name: Mapping[str, Tool]

    @classmethod
    def of(cls, tools: Iterable[Tool]) -> "Tools":
        """From a list."""
        found = list(tools)
        return cls(
            by_path={(one.tool, one.method): one for one in found},
            by_name={one.name: one for one in found},
        )

    def find(self, call: Call) -> Tool | None:
        """The tool of a call: by tool and method, else by its MCP name."""
        exact = self.by_path.get((call.tool, call.method))
        return exact if exact is not None or call.method else self.by_name.get(call.tool)


def named(definition: Definition, tools: Tools) -> Definition:
    """The same with each tool by tool and method, where its MCP name stood."""

    def known(call: Call | None) -> Call | None:
        found = None if call is None else tools.find(call)
        return call if call is None or found is None else _renamed(call, found)

    steps: list[Step] = []
    for step in definition.steps:
        call = known(step.call)
        assert call is not None, "a step has a call"
        changed = replace(
            step, call=call, compensate=known(step.compensate), reconcile=known(step.reconcile)
        )
        steps.append(changed)
    return replace(definition, steps=tuple(steps))


def _renamed(call: Call, tool: Tool) -> Call:
    return replace(call, tool=tool.tool, method=tool.method)


def problems(definition: Definition, tools: Tools) -> list[Problem]:
    """All that is known to be wrong with a definition, each with its place and what to do."""
    found = list(_input_problems(definition.input_schema))
    if found:
        return found
    marked = Marked(definition, tools.find, MARK)
    for index, step in enumerate(definition.steps):
        at = f"steps[{index}]"
        for place, call in step.calls():
            tool = tools.find(call)
            here = ".".join((at, *place))
            if tool is None:
                cure = "see tools/list for those you may call"
                found.append((f"{here}.tool", f"there is no tool {call.path!r}; {cure}"))
                continue
            found += _kind_problems(step, place, tool, here)
            found += _argument_problems(definition, tools, tool, call, f"{here}.args")
        found += _key_problems(marked, step, f"{at}.ordering_key")
    return found


def _key_problems(marked: Marked, step: Step, at: str) -> Iterator[Problem]:
    for one in references(step.ordering_key):
        if marked.may_be_in(one):
            cure = "a key is shown, in Kafka too; make it of something else"
            yield at, f"{one} may be of what a schema marks {MARK}: {cure}"


def _kind_problems(step: Step, place: Sequence[str], tool: Tool, at: str) -> Iterator[Problem]:
    if not place and step.kind is StepKind.READONLY and not tool.read_only:
        yield at, f"{tool.name} changes things; it is no readonly step: give it `compensate`"
    if place == ("reconcile",) and not tool.read_only:
        yield at, f"{tool.name} changes things; `reconcile` only looks: name a read-only tool"


def compiled(schema: Mapping[str, Any]) -> Any:
    """A validator of a schema that a tenant wrote: fetches nothing, and matches in linear time.

    Raises:
        ValueError: it is no JSON Schema, or refers to another document.
    """

    def refuse(uri: str) -> Any:
        raise ValueError(f"{uri}: a schema here refers to itself only (#/$defs/…)")

    try:
        return jsonschema_rs.validator_for(
            dict(schema), retriever=refuse, pattern_options=jsonschema_rs.RegexOptions()
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        raise ValueError(str(error).partition("\n")[0]) from error


def _input_problems(schema: Mapping[str, Any]) -> Iterator[Problem]:
    if not schema:
        return
    if schema.get("type") != "object":
        yield "input", "write a JSON Schema with `type: object`, or leave it out"
        return
    try:
        compiled(schema)
    except ValueError as error:
        yield "input", f"it is no JSON Schema: {error}"


def prepared_input(definition: Definition, given: Mapping[str, Any]) -> dict[str, Any]:
    """A run's input with the schema's defaults; each reference to it finds something.

    Raises:
        InvalidArgumentsError: it does not fit the schema, or lacks what a step refers to.
        InvalidDefinitionError: it is not plain JSON.
    """
    must_be_plain(dict(given))
    properties: Mapping[str, Any] = definition.input_schema.get("properties", {})
    defaults = {
        name: schema["default"]
        for name, schema in properties.items()
        if isinstance(schema, Mapping) and "default" in schema
    }
    made = {**defaults, **given}
    found: list[Problem] = []
    if definition.input_schema:
        found = [
            (where(("input", *error.instance_path)), error.message)
            for error in compiled(definition.input_schema).iter_errors(made)
        ]
    if not found:
        found = list(_missing_input(definition, made))
    if found:
        problems = problems_of(found)
        lines = "; ".join(f"{one['at']}: {one['problem']}" for one in problems)
        raise InvalidArgumentsError(f"{lines}. Nothing was started.", problems=problems)
    return made


def _missing_input(definition: Definition, made: Mapping[str, Any]) -> Iterator[Problem]:
    for index, step in enumerate(definition.steps):
        for at, value in _texts(step, f"steps[{index}]"):
            try:
                check(value, {"input": made}, keep=frozenset({"steps", "saga"}))
            except TemplateError as error:
                yield f"{at}.{error.at}" if error.at else at, error.problem


def _texts(step: Step, at: str) -> Iterator[tuple[str, Any]]:
    for place, call in step.calls():
        yield ".".join((at, *place, "args")), call.args
    yield f"{at}.ordering_key", step.ordering_key


def _argument_problems(
    definition: Definition, tools: Tools, tool: Tool, call: Call, at: str
) -> Iterator[Problem]:
    standing = {one.at: one for one in references(call.args)}
    hidden = {"mask": REDACTED} if marks(tool.input_schema) else {}
    validator = kept_validator_for(tool.input_schema, **hidden)
    for error in validator.iter_errors(dict(call.args)):
        place = tuple(error.instance_path)
        holds = [one for one in standing if one[: len(place)] == place]
        if not holds or (place not in standing and error.kind.name in WHOLE):
            yield where((at, *place)), f"{error.message} (by the schema of {tool.name})"
    for place, one in standing.items():
        wanted = _below(tool.input_schema, place)
        got, problem = _source(definition, tools, one)
        if problem is not None:
            yield where((at, *place)), f"{one}: {problem}"
        elif _disjoint(got, _types(wanted.schema)):
            asked = " or ".join(sorted(_types(wanted.schema) or ()))
            given = " or ".join(sorted(got or ()))
            yield where((at, *place)), f"{one} is {given}; {tool.name} takes {asked}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Below:
    """What a schema says of a place in its values; `schema` is None where it says nothing."""

    schema: Mapping[str, Any] | None
    missing: str | None = None  # the part that it does not allow
    optional: str | None = None  # the part that need not be there


def _below(schema: Mapping[str, Any], path: Sequence[str | int]) -> Below:
    here: Any = schema
    optional: str | None = None
    for part in path:
        if not isinstance(here, Mapping) or any(change in here for change in OPAQUE):
            return Below(schema=None, optional=optional)
        name = str(part)
        inner = here.get("properties", {}).get(name)
        if inner is not None:
            sure = name in here.get("required", ())
            if not sure and not (isinstance(inner, Mapping) and "default" in inner):
                optional = optional or name
            here = inner
        elif "items" in here and name.isdecimal():
            here = here["items"]
        elif here.get("additionalProperties") is False:
            return Below(schema=None, missing=name)
        else:
            return Below(schema=None, optional=optional)
    return Below(schema=here if isinstance(here, Mapping) else None, optional=optional)


def _source(
    definition: Definition, tools: Tools, one: Reference
) -> tuple[frozenset[str] | None, str | None]:
    """The JSON types that a reference can give (None: not known), or what is wrong with it."""
    if one.path[0] == "saga":
        return frozenset({"string"}), None
    if one.step is None:
        found = _below(definition.input_schema, one.path[1:])
        whose = "the input's schema"
        if found.optional is not None:
            cure = "add it to `required` or give it a `default`"
            return None, f"{found.optional!r} may be missing by {whose}; {cure}"
    else:
        tool = tools.find(definition.step(one.step).call)
        if tool is None or tool.output_schema is None:
            return (frozenset({"string"}) if not one.whole else None), None
        found = _below(tool.output_schema, one.path[3:])
        whose = f"the output schema of {tool.name}"
    if found.missing is not None:
        return None, f"{whose} has no {found.missing!r}"
    return (_types(found.schema) if one.whole else frozenset({"string"})), None


def _types(schema: Mapping[str, Any] | None) -> frozenset[str] | None:
    if schema is None:
        return None
    declared = schema.get("type")
    if isinstance(declared, str):
        return frozenset({declared})
    if isinstance(declared, list):
        return frozenset(declared)
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return None if values is None else frozenset(_type(value) for value in values)


def _type(value: Any) -> str:
    return next((name for kind, name in JSON_TYPES if isinstance(value, kind)), "null")


def _disjoint(given: frozenset[str] | None, wanted: frozenset[str] | None) -> bool:
    if given is None or wanted is None:
        return False
    wider = given | ({"number"} if "integer" in given else set())
    narrower = wider | ({"integer"} if "number" in given else set())
    return not narrower & wanted

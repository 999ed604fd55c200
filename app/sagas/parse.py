"""From JSON or YAML to a saga's definition, with every rule that needs no catalog; pure.

What leaves here can be run: its steps form a graph without a cycle, each reference names an earlier
step, and each mutating step can be undone or comes after the point of no return. What only the
catalog knows is checked by `saga_check`.
"""

import json
from collections.abc import Iterable, Iterator
from graphlib import CycleError
from typing import Annotated, Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError

from app import yaml_values
from app.errors import InvalidDefinitionError, problems_of
from app.sagas.definition import INLINE, Approval, Call, Definition, Step, StepKind, ancestors
from app.sagas.template import Reference, TemplateError, references, where
from app.yaml_values import YamlRefusedError

STEPS_MAX: Final = 100
BYTES_MAX: Final = 256 << 10
DEPTH_MAX: Final = 32
SECONDS_MAX: Final = 10 * 365 * 86_400
"""Of a deadline; far more is no time that PostgreSQL knows."""

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Tool = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
Method = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{0,128}$")]


class CallBody(BaseModel):
    """A call of a tool."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: Tool = Field(description="A tool's name as tools/list shows it; or with `method` apart.")
    method: Method = ""
    args: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="May hold {{ input.x }} and {{ steps.id.result.x }} of earlier steps.",
    )

    def call(self) -> Call:
        """The same as data."""
        return Call(tool=self.tool, method=self.method, args=self.args)


class RetryBody(BaseModel):
    """How often a step is tried before the saga is undone; the pause is the tool's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempts_max: int = Field(ge=1, le=100)


class StepBody(CallBody):
    """One step of a saga."""

    id: Id
    needs: tuple[Id, ...] | None = Field(
        default=None,
        max_length=STEPS_MAX,
        description="Steps to wait for; without it, the step before. [] starts at once.",
    )
    kind: StepKind = Field(
        default=StepKind.COMPENSATABLE,
        description="compensatable: undone by `compensate`. readonly: changes nothing. pivot: the"
        " point of no return. retriable: after the pivot, tried until it succeeds.",
    )
    compensate: CallBody | None = Field(
        default=None, description="The call that undoes this step; it must bear being repeated."
    )
    reconcile: CallBody | None = Field(
        default=None, description="A read-only call that finds out whether a lost step was done."
    )
    retry: RetryBody | None = None
    timeout_s: float | None = Field(default=None, gt=0, le=SECONDS_MAX)
    approval: Approval = Field(
        default="none",
        description="ask: the caller's person or an operator must approve before it runs."
        " operator: an operator must.",
    )
    ordering_key: str | None = Field(default=None, min_length=1, max_length=255)


class DefinitionBody(BaseModel):
    """A saga's definition."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name = INLINE
    description: str = Field(default="", max_length=2000)
    input: dict[str, JsonValue] = Field(
        default_factory=dict, description="JSON Schema of the input."
    )
    deadline_s: float | None = Field(default=None, gt=0, le=SECONDS_MAX)
    steps: tuple[StepBody, ...] = Field(min_length=1, max_length=STEPS_MAX)


def load(text: str | bytes) -> Any:
    """JSON or YAML as plain data, not checked yet.

    Raises:
        InvalidDefinitionError: it is neither, too large, nested too deeply, or YAML with aliases.
    """
    try:
        return yaml_values.load(text, bytes_max=BYTES_MAX, depth_max=DEPTH_MAX, aliases=False)
    except YamlRefusedError as error:
        raise refused([(where(error.at), error.problem)]) from error


def parse(data: Any, *, version: int = 0) -> Definition:
    """A definition out of plain data, with every rule checked that needs no catalog.

    Raises:
        InvalidDefinitionError: `problems` has all that is wrong, each with its place and cure.
    """
    must_be_plain(data)
    try:
        body = DefinitionBody.model_validate(data)
    except ValidationError as error:
        raise refused(
            (where(one["loc"]), _said(one["msg"])) for one in error.errors(include_url=False)
        ) from error
    steps = tuple(_step(body, index) for index in range(len(body.steps)))
    problems = list(_graph_problems(steps))
    if not problems:
        problems = [*_kind_problems(steps), *_reference_problems(steps)]
    if problems:
        raise refused(problems)
    return Definition(
        name=body.name,
        version=version,
        description=body.description,
        input_schema=body.input,
        steps=steps,
        deadline_s=body.deadline_s,
    )


def must_be_plain(data: Any) -> None:
    """Check that this is JSON which PostgreSQL, orjson and every peer keep alike.

    Raises:
        InvalidDefinitionError: it is too deep or too large, or holds NaN, a NUL character, a
            number over 64 bits, or what is no JSON.
    """
    level = [data]
    for _ in range(DEPTH_MAX):
        level = [item for one in level for item in _items(one)]
    if level:
        raise refused([("", f"it is nested deeper than {DEPTH_MAX} levels")])
    try:
        text = json.dumps(data, allow_nan=False)
        orjson.dumps(data)
    except (TypeError, ValueError) as error:
        raise refused([("", f"it is not plain JSON: {error}")]) from error
    if "\\u0000" in text:
        raise refused([("", "it holds a NUL character, which is not kept")])
    if len(text) > BYTES_MAX:
        raise refused([("", f"it has {len(text)} bytes; at most {BYTES_MAX} are taken")])


def _items(value: Any) -> Iterable[Any]:
    match value:
        case dict():
            return value.values()
        case list():
            return value
        case _:
            return ()


def refused(problems: Iterable[tuple[str, str]]) -> InvalidDefinitionError:
    """The error that tells these, of very many the first: (place, what is wrong and what to do)."""
    found = problems_of(problems)
    lines = "; ".join(
        f"{one['at']}: {one['problem']}" if one["at"] else one["problem"] for one in found
    )
    return InvalidDefinitionError(f"Nothing was started. {lines}.", problems=found)


def _step(body: DefinitionBody, index: int) -> Step:
    one = body.steps[index]
    needs = one.needs
    if needs is None:
        needs = () if index == 0 else (body.steps[index - 1].id,)
    return Step(
        id=one.id,
        call=one.call(),
        kind=one.kind,
        needs=tuple(dict.fromkeys(needs)),
        compensate=None if one.compensate is None else one.compensate.call(),
        reconcile=None if one.reconcile is None else one.reconcile.call(),
        attempts_max=None if one.retry is None else one.retry.attempts_max,
        timeout_s=one.timeout_s,
        approval=one.approval,
        ordering_key=one.ordering_key,
    )


def _said(message: str) -> str:
    return message[:1].lower() + message[1:]


def _graph_problems(steps: tuple[Step, ...]) -> Iterator[tuple[str, str]]:
    known = [step.id for step in steps]
    for index, step in enumerate(steps):
        if step.id in known[:index]:
            yield f"steps[{index}].id", f"{step.id!r} stands twice; give each step its own id"
        for one in step.needs:
            if one not in known:
                yield f"steps[{index}].needs", f"there is no step {one!r}"
    if len(set(known)) < len(known) or any(set(step.needs) - set(known) for step in steps):
        return
    try:
        ancestors(steps)
    except CycleError as error:
        circle = " waits for ".join(reversed(error.args[1]))
        yield "steps", f"{circle}; take one of these needs away"


def _kind_problems(steps: tuple[Step, ...]) -> Iterator[tuple[str, str]]:
    before = ancestors(steps)
    pivots = [step.id for step in steps if step.kind is StepKind.PIVOT]
    if len(pivots) > 1:
        # Were one done and the other failed, there would be no way forward and none back.
        yield "steps", f"{' and '.join(pivots)} are pivots; one point of no return is all there is"
        return
    for index, step in enumerate(steps):
        at = f"steps[{index}]"
        if step.compensate is not None and step.kind is not StepKind.COMPENSATABLE:
            yield f"{at}.compensate", f"a {step.kind} step is never undone; leave it out"
        if step.kind is StepKind.COMPENSATABLE and step.compensate is None:
            cure = "give it `compensate`, or `kind: readonly` if its tool changes nothing"
            yield at, f"step {step.id!r} could not be undone; {cure}"
        if step.kind is StepKind.RETRIABLE and not before[step.id] & set(pivots):
            cure = "make it compensatable, or let it need the pivot"
            yield f"{at}.kind", f"only what comes after the pivot is retriable; {cure}"
        if step.kind is StepKind.COMPENSATABLE:
            beside = [one for one in pivots if step.id not in before[one]]
            for pivot in beside:
                cure = f"let {pivot!r} need it, or let it come after as retriable"
                yield at, f"step {step.id!r} could not be undone once {pivot!r} is done; {cure}"


def _reference_problems(steps: tuple[Step, ...]) -> Iterator[tuple[str, str]]:
    before = ancestors(steps)
    for index, step in enumerate(steps):
        for place, value, known in _templates(step, before[step.id]):
            at = f"steps[{index}].{place}"
            try:
                found = list(references(value))
            except TemplateError as error:
                yield where([at, error.at]) if error.at else at, error.problem
                continue
            for one in found:
                problem = _reference_problem(step, place, one, known)
                if problem is not None:
                    yield where([at, *one.at]), f"{one}: {problem}"


def _templates(step: Step, before: frozenset[str]) -> Iterator[tuple[str, Any, frozenset[str]]]:
    """Each value that may hold references, and the steps whose results are there by then."""
    for place, call in step.calls():
        known = before | {step.id} if place == ("compensate",) else before
        yield ".".join((*place, "args")), call.args, known
    yield "ordering_key", step.ordering_key, before


def _reference_problem(
    step: Step, place: str, reference: Reference, known: frozenset[str]
) -> str | None:
    if reference.step is None:
        return None
    if reference.step not in known:
        cure = "add it to `needs`" if reference.step != step.id else "only `compensate` may name it"
        return f"step {reference.step!r} need not have ended by then; {cure}"
    if reference.step == step.id and place == "compensate.args" and step.reconcile is None:
        # A step that timed out has no result, and is undone all the same.
        return (
            "the result is not there when the step times out, and it must be undone even so;"
            " name what was made by input, or give the step a `reconcile` call"
        )
    return None

"""A saga as it is written: steps, what undoes each, and what waits for what; pure data.

`saga_parse.parse` is the only way in, so that every `Definition` there is can be run.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from graphlib import TopologicalSorter
from typing import Any, Final, Literal

INLINE: Final = "inline"
"""The name of a plan that came with its run and was never registered."""


class StepKind(StrEnum):
    """What may become of a step once it is done."""

    COMPENSATABLE = "compensatable"  # undone by its `compensate`
    PIVOT = "pivot"  # the point of no return: the saga goes forward only once it is done
    RETRIABLE = "retriable"  # after the pivot: made to succeed, never undone
    READONLY = "readonly"  # changes nothing, so nothing is to be undone


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A tool's call; `args` may hold references. Without a method, `tool` is an MCP tool name."""

    tool: str
    method: str
    args: Mapping[str, Any]

    @property
    def path(self) -> str:
        """As grants and messages name it."""
        return f"{self.tool}/{self.method}" if self.method else self.tool


Approval = Literal["none", "ask", "operator"]
"""Who lets a step go. `ask`: the caller's person, where that can be asked, or an operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step; it starts once each step that it needs has succeeded."""

    id: str
    call: Call
    kind: StepKind
    needs: tuple[str, ...]
    compensate: Call | None = None
    reconcile: Call | None = None  # a read-only call that finds out what an unknown outcome was
    attempts_max: int | None = None  # None is the tool's own
    timeout_s: float | None = None
    approval: Approval = "none"
    ordering_key: str | None = None  # may hold references

    def calls(self) -> Iterator[tuple[tuple[str, ...], Call]]:
        """Its calls, each with its place within the step."""
        yield (), self.call
        if self.compensate is not None:
            yield ("compensate",), self.compensate
        if self.reconcile is not None:
            yield ("reconcile",), self.reconcile


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A saga that can be run. `version` is 0 until it is registered, and stays 0 inline."""

    name: str
    version: int
    description: str
    input_schema: Mapping[str, Any]
    steps: tuple[Step, ...]
    deadline_s: float | None = None

    def step(self, step_id: str) -> Step:
        """The step of an id. Raises KeyError."""
        for one in self.steps:
            if one.id == step_id:
                return one
        raise KeyError(step_id)

    def ancestors(self) -> dict[str, frozenset[str]]:
        """For each step all those that have succeeded before it starts."""
        return ancestors(self.steps)

    @property
    def pivot(self) -> Step | None:
        """The point of no return."""
        return next((one for one in self.steps if one.kind is StepKind.PIVOT), None)


def as_json(definition: Definition) -> dict[str, Any]:
    """The canonical form, which `parse` reads back: what is stored, and what a digest covers."""
    body = {
        "name": definition.name,
        "description": definition.description,
        "input": definition.input_schema,
        "deadline_s": definition.deadline_s,
        "steps": [_step_json(step) for step in definition.steps],
    }
    return {name: value for name, value in body.items() if value is not None}


def call_json(call: Call) -> dict[str, Any]:
    """A call as the envelope's compensation has it."""
    return {"tool": call.tool, "method": call.method, "args": dict(call.args)}


def ancestors(steps: Iterable[Step]) -> dict[str, frozenset[str]]:
    """For each step all those that have succeeded before it starts.

    Raises:
        CycleError: some of them wait for each other.
    """
    needs = {step.id: step.needs for step in steps}
    found: dict[str, frozenset[str]] = {}
    for step_id in TopologicalSorter(needs).static_order():
        direct = needs[step_id]
        found[step_id] = frozenset(direct).union(*(found[one] for one in direct))
    return found


def _step_json(step: Step) -> dict[str, Any]:
    body = {
        "id": step.id,
        **call_json(step.call),
        "kind": str(step.kind),
        "needs": list(step.needs),
        "compensate": None if step.compensate is None else call_json(step.compensate),
        "reconcile": None if step.reconcile is None else call_json(step.reconcile),
        "retry": None if step.attempts_max is None else {"attempts_max": step.attempts_max},
        "timeout_s": step.timeout_s,
        "approval": step.approval,
        "ordering_key": step.ordering_key,
    }
    return {name: value for name, value in body.items() if value is not None}

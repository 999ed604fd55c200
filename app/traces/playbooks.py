"""A playbook's run as spans, of what `mcpbroker.eda.traces` has taken down.

They are sent by the playbook's own process as it ends: below the span that published its command,
or whatever else has told the run of a trace. What its tasks ask the broker is sent by these.
"""

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from pydantic_settings import SettingsConfigDict

from app.config.every import EverySettings
from app.config.sources import PREFIX
from app.traces import names, tracing
from app.traces.context import Context
from app.traces.life import nanoseconds
from app.traces.otlp import CLIENT, INTERNAL, Attributes, Span, Value
from app.traces.tracing import Tracing

SEND_S: Final = "2"
"""How long a playbook's end waits for a collector, in seconds, where no variable says it."""
NAME_MAX: Final = 200
"""Characters."""
TEMPLATES: Final = ("{{", "{%", "{#")
WORST: Final = ("failed", "unreachable", "ok", "skipped")
"""Outcomes of a task on many hosts: the first that one of them had is the task's."""


class PlaySettings(EverySettings):
    """What a playbook's process reads of the broker's settings."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")


class Task(BaseModel):
    """A task as it was taken down, or a handler."""

    name: str
    """As it stands in the file."""
    action: str
    began_ns: int
    ended_ns: int
    outcomes: Sequence[str]
    """Of each host that has ended it."""


class Run(BaseModel):
    """A playbook's run as it was taken down; times since 1970."""

    model_config = ConfigDict(extra="forbid")

    playbook: str
    """Its file's name."""
    variables: Mapping[str, Any]
    """The extra variables: what began it put the command, or its event, there."""
    began_ns: int
    ended_ns: int
    failed: bool
    tasks: Mapping[str, Task]


class Word(BaseModel):
    """What a task has said to the results API, with all of its tries; times since 1970."""

    traceparent: str
    """That went along with it."""
    url: str
    """Of the broker."""
    route: str
    """Below the command's, such as `/claim`."""
    began_ns: int
    ended_ns: int
    status: int | None
    """Of the last try; None where there was no answer."""
    tries: int


def opened() -> Tracing | None:
    """What records spans of this process, and sends them by `send_words`; None if none are wanted.

    Raises:
        ExtraMissingError: the libraries that send them are missing.
    """
    # A playbook, or a task, waits for the collector for no longer.
    os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", SEND_S)
    return tracing.made(PlaySettings(), service="eda")


def send_words(
    by: Tracing, variables: Mapping[str, Any], task: str, words: Sequence[Mapping[str, Any]]
) -> None:
    """Send what a task has said, below its own span, and what else `by` has recorded.

    Raises:
        ValidationError: these are no words.
    """
    above = Context.read(_traceparent(variables))
    if above is not None:
        who = _who(variables, by)
        for one in map(Word.model_validate, words):
            by.record(_span(one, above.of("task", task), who))
    by.send()


def _span(word: Word, task: Context, who: Attributes) -> Span:
    at = Context.read(word.traceparent)
    assert at is not None, "it was made for this word"
    path = f"/results/{{correlation_id}}{word.route}"
    name, attributes = names.http_client("POST", path, word.url, word.status, word.tries)
    failed = word.status is None or word.status >= names.CLIENT_ERROR
    times = (word.began_ns, word.ended_ns)
    return Span(at, task.span_id, name, CLIENT, *times, attributes, who, failed=failed)


def send(taken: Mapping[str, Any]) -> None:
    """Send the spans of a run, if they are asked for and it is of a trace that is recorded.

    Waits for the collector for two seconds, or for OTEL_EXPORTER_OTLP_TIMEOUT.

    Raises:
        ExtraMissingError: the libraries that send them are missing.
        ValidationError: it is no run.
    """
    run = Run.model_validate(taken)
    above = Context.read(_traceparent(run.variables))
    if above is None or not above.sampled:
        return
    if (found := opened()) is not None:
        for span in spans(run, above, found):
            found.record(span)
        found.send()


def spans(run: Run, above: Context, by: Tracing) -> Sequence[Span]:
    """The rule's span, where a rule began it; below it the playbook's, then its tasks'."""
    who = _who(run.variables, by)
    told: list[Span] = []
    rule, received_ns = _rule(run.variables)
    parent = above
    if rule is not None:
        at, began_ns = by.below(above), min(received_ns or run.began_ns, run.began_ns)
        told.append(
            Span(at, above.span_id, _named("rule", rule), INTERNAL, began_ns, run.ended_ns, own=who)
        )
        parent = at
    at = by.below(parent)
    name, times = _named("playbook", run.playbook), (run.began_ns, run.ended_ns)
    told.append(Span(at, parent.span_id, name, INTERNAL, *times, own=who, failed=run.failed))
    for known, task in run.tasks.items():
        if task.outcomes:
            outcome = min(task.outcomes, key=WORST.index)
            said: tuple[tuple[str, Value], ...] = (
                ("ansible.task.module", task.action),
                ("ansible.task.result", outcome),
            )
            named = task.name and not any(mark in task.name for mark in TEMPLATES)
            told.append(
                Span(
                    at=above.of("task", known),
                    parent=at.span_id,
                    name=_named("task", task.name if named else task.action),
                    kind=INTERNAL,
                    start_ns=task.began_ns,
                    end_ns=task.ended_ns,
                    attributes=said,
                    failed=outcome in {"failed", "unreachable"},
                )
            )
    return told


def _named(what: str, name: str) -> str:
    return f"{what} {name}"[:NAME_MAX]


def _traceparent(variables: Mapping[str, Any]) -> str | None:
    """Of the event, the variables, or the environment: of the first that has one."""
    headers = _of(_of(_event(variables), "meta"), "headers")
    given = headers.get("traceparent") or variables.get("TRACEPARENT")
    given = given or os.environ.get("TRACEPARENT")
    return given if isinstance(given, str) else None


def _rule(variables: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """The rule that began it, and when the rulebook had its event."""
    rule = _of(variables, "ansible_eda").get("rule")
    try:
        received = datetime.fromisoformat(str(_of(_event(variables), "meta")["received_at"]))
        return (rule if isinstance(rule, str) else None), nanoseconds(received)
    except (KeyError, ValueError, TypeError):
        return (rule if isinstance(rule, str) else None), None


def _who(variables: Mapping[str, Any], by: Tracing) -> Attributes:
    command = _of(_event(variables), "body") or _of(variables, "mcp_command")
    tenant = command.get("tenant_id")
    return by.who(
        correlation_id=command.get("correlation_id"),
        tenant_id=tenant if isinstance(tenant, str) else None,
    )


def _event(variables: Mapping[str, Any]) -> Mapping[str, Any]:
    return _of(_of(variables, "ansible_eda"), "event")


def _of(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = given.get(name)
    return found if isinstance(found, Mapping) else {}

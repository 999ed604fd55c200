"""For each form and each filter of the console what is good, so that what is hostile is reached."""

import json
from collections.abc import Mapping
from typing import Any, Final

from app.console.lists import Filter
from app.console.pages import audit, calls, inbox, sagas
from tests.edges.hostile import world as subjects
from tests.edges.hostile.rounds import Good
from tests.edges.hostile.world import KNOWN, Subject

REASON: Final = {"reason": "because"}
HOLD: Final = {
    "tool": "git/clone",
    "key": "none",
    "path": "/repo/x",
    "value": "{key}",
    "as_json": "",
    "all_calls": "",
    "effect": "wait",
    "until": "2099-01-31T09:00:00",
}
STEP: Final = {"verb": "step-retry", "item": "{id}/a"}
SETTLE: Final = {"verb": "retry", "step": "a"}
PLAN: Final = {"name": "known", "version": "1", "plan": "", "input": '{"x": "y"}'}


def asked(filters: type[Filter]) -> dict[str, str]:
    """Every field of a filter."""
    return dict.fromkeys(filters.model_fields, "")


def of(
    fields: Mapping[str, str], about: Subject | None = None, *, shared: bool = False
) -> list[Good]:
    return [Good(about=about, shared=shared, body=dict(fields))]


def read(filters: Any = None, about: Subject | None = None, **path: str) -> list[Good]:
    fields = filters if isinstance(filters, dict) else {} if filters is None else asked(filters)
    return [Good(about=about, shared=True, path=path, body=fields)]


def decided(verb: str, about: Subject) -> list[Good]:
    return of({"verb": verb, "item": "{id}", **REASON}, about)


FORMS: Final[Mapping[str, list[Good]]] = {
    "GET /console": read(),
    "GET /console/": read(),
    "GET /console/sign-in": read({"page": "/console/calls", "ended": ""}),
    "GET /console/signed-out": read(),
    "GET /console/sign-in/link": of({"token": "x"}),
    "POST /console/sign-in/link": of({"token": "x"}),
    "POST /console/sign-out": of({"csrf": "x"}),
    "GET /console/inbox": read(inbox.Asked),
    "POST /console/inbox/preview": [
        *of({"verb": "deny", "item": "{id}"}, subjects.pending, shared=True),
        *of(STEP, subjects.half_undone, shared=True),
    ],
    "POST /console/inbox/act": [
        *decided("approve", subjects.pending),
        *decided("resolve-failed", subjects.doubtful),
        *decided("discard", subjects.dead),
    ],
    "GET /console/approvals/{call_id}": read(about=subjects.pending),
    "POST /console/approvals/{call_id}": of({"verb": "approve", **REASON}, subjects.pending),
    "GET /console/calls": read(calls.Filter),
    "GET /console/calls/{call_id}": read(about=subjects.done),
    "POST /console/calls/{call_id}/cancel": of(REASON, subjects.queued),
    "GET /console/sagas": read(sagas.Filter),
    "GET /console/sagas/definitions": read({"after": "a"}),
    "GET /console/sagas/definitions/{name}": read({"version": "1", "before": "9"}, name="known"),
    "GET /console/sagas/plan": read({"name": "known", "version": "1"}),
    "POST /console/sagas/plan": [
        *of(PLAN),
        *of(PLAN | {"name": "", "version": "", "plan": json.dumps(KNOWN)}),
    ],
    "GET /console/sagas/{saga_id}": read(about=subjects.saga),
    "POST /console/sagas/{saga_id}/preview": of(SETTLE, subjects.half_undone, shared=True),
    "POST /console/sagas/{saga_id}/act": of(SETTLE | REASON, subjects.half_undone, shared=True),
    "GET /console/tools": read(),
    "GET /console/tools/hold": read({"tool": "git"}),
    "POST /console/tools/hold/preview": of(HOLD),
    "POST /console/tools/hold": of(HOLD | REASON),
    "POST /console/tools/holds/{hold_id}/preview": of({}, subjects.hold),
    "POST /console/tools/holds/{hold_id}/release": of(REASON, subjects.hold),
    "GET /console/audit": read(audit.Filter),
    "GET /console/audit/proof/{event_id}": read(),
    "POST /console/audit/verify": of({"last": ""}),
    "POST /console/audit/bundle": of({"last": ""}),
}
"""By route. Those that are followed live are made of the same parts."""
NOT_TAKEN: Final = frozenset(
    {
        "GET /console/sign-in/link",
        "POST /console/sign-in/link",
        "POST /console/sign-out",
        "GET /console/audit/proof/{event_id}",
        "POST /console/audit/bundle",
    }
)
"""Refused: no link, a form that no page sent, and where nothing is sealed."""

"""For each route of the HTTP API a request that is good, so that what is hostile in it is reached.

The fields of a request are those of its schema in the API's own document and those of the good
request. A route that is not here, or a field that no request here reaches, fails a test.
"""

from collections.abc import Mapping
from typing import Any, Final

from tests.edges.hostile import world as subjects
from tests.edges.hostile.rounds import Good
from tests.edges.hostile.world import Subject

CALL: Final = {
    "envelope_version": "1.0",
    "idempotency_key": "{key}",
    "tenant_id": "demo",
    "user_id": "ada",
    "tool": "probe",
    "method": "echo",
    "args": {"text": "x"},
    "priority": "low",
    "accept_async": True,
    "labels": ["l"],
}
STEP: Final = {
    **CALL,
    "saga_id": "0197d1f0-0000-7000-8000-{key12}",
    "saga_step": "a",
    "compensation": {"tool": "probe", "method": "echo", "args": {"text": "y"}},
}
SETTINGS: Final = {
    **CALL,
    "tool": "service",
    "method": "configure",
    "args": {"name": "n", "owner": "o", "settings": {"a": [{"b": "c"}]}},
}
CLONE: Final = {**CALL, "tool": "git", "method": "clone"} | {
    "args": {"repo": "r", "dest": "d", "ref": "main", "depth": 1}
}
REASON: Final = {"reason": "because"}
HELD: Final = {
    "tool": "git",
    "method": "clone",
    "ordering_key": "none",
    "argument": {"path": "/repo/x", "value": "{key}"},
    "effect": "wait",
    "until": "2099-01-31T09:00:00Z",
    "dry_run": False,
    **REASON,
}
CLAIM: Final = {
    "attempt": 1,
    "adapter": "run-{key}",
    "tenant_id": "demo",
    "tool": "probe",
    "method": "echo",
}
PROGRESS: Final = {"stage": "s", "percent": 5, "message": "m", "attempt": 1}
OK: Final = {"status": "ok", "result": {"text": "x", "more": ["y"]}, "attempt": 1}
ERROR: Final = {
    "status": "error",
    "error": {"code": "c", "message": "m", "retryable": True, "retry_after_s": 1},
    "attempt": 1,
}
REJECT: Final = {"attempt": 1, "reason": "no rule"}
FARES: Final = {
    "attempt": 1,
    "run": "job:1",
    "parts": ["job:2"],
    "status": "failed",
    "link": "https://controller.test/jobs/1",
    "log": "PLAY RECAP",
    "error": {"code": "job_failed", "message": "m", "retryable": False},
    "again_after_s": 1,
}
MANY: Final = {
    "tool": "probe",
    "method": "echo",
    "code": "no",
    "outcome_unknown": False,
    "older_than_s": 0,
    "newer_than_s": 60,
    "limit": 1,
    "per_s": 5,
    "dry_run": True,
    **REASON,
}
WEBHOOK: Final = {
    "url": "https://127.0.0.1:9/{key}",
    "events": ["command.ended"],
    "tool": "probe",
    "method": "echo",
    "template": {"text": "{{tool}} is {{state}}"},
}
DEFINITION: Final = {
    "name": "n-{key12}",
    "description": "d",
    "input": {"type": "object", "properties": {"x": {"type": "string"}}},
    "deadline_s": 600,
    **subjects.PLAN,
}
RUN: Final = {"plan": subjects.PLAN, "deadline_ms": 60_000, "labels": ["l"]}
NAMED: Final = {"name": "known", "version": 1, "input": {"x": "y"}}


def item(op: str, body: Mapping[str, Any]) -> Any:
    """A batch of one, beside one that is good."""
    return {"items": [{"op": op, "correlation_id": "{id}", **body}]}


def of(about: Subject | None, body: Any = None, **more: Any) -> list[Good]:
    return [Good(about=about, body=body, **more)]


def read(about: Subject | None, **path: str) -> list[Good]:
    return [Good(about=about, shared=True, path=path)]


ROUTES: Final[Mapping[str, list[Good]]] = {
    "GET /healthz": read(None),
    "GET /readyz": read(None),
    "POST /mcp/tools/call": [Good(body=one) for one in (CALL, STEP, SETTINGS, CLONE)],
    "GET /commands": read(None),
    "GET /commands/{command_id}": read(subjects.queued),
    "GET /commands/{command_id}/events": read(subjects.done),
    "POST /commands/{command_id}/cancel": of(subjects.queued, REASON),
    "POST /results/batch": [
        Good(about=subjects.queued, body=item("claim", CLAIM)),
        Good(about=subjects.running, body=item("progress", PROGRESS)),
        Good(about=subjects.running, body=item("result", OK)),
        Good(about=subjects.queued, body=item("reject", REJECT)),
        Good(about=subjects.running, body=item("run", FARES)),
    ],
    "POST /results/{correlation_id}/claim": of(subjects.queued, CLAIM),
    "POST /results/{correlation_id}/progress": of(subjects.running, PROGRESS),
    "POST /results/{correlation_id}": [
        Good(about=subjects.running, body=OK),
        Good(about=subjects.running, body=ERROR),
        Good(about=subjects.running, body=ERROR | {"error": "m"}),
    ],
    "POST /results/{correlation_id}/reject": of(subjects.queued, REJECT),
    "POST /results/{correlation_id}/run": of(subjects.running, FARES),
    "GET /approvals": read(None),
    "POST /commands/{command_id}/approve": of(subjects.pending, REASON),
    "POST /commands/{command_id}/deny": of(subjects.pending, REASON),
    "POST /operator/commands/{command_id}/approve": of(subjects.pending, REASON),
    "POST /operator/commands/{command_id}/deny": of(subjects.pending, REASON),
    "POST /operator/commands/{command_id}/resolve": of(
        subjects.doubtful, {**REASON, "outcome": "failed"}
    ),
    "GET /operator/keys/blocked": read(None),
    "GET /operator/holds": read(None),
    "POST /operator/holds": of(None, HELD),
    "POST /operator/holds/{hold_id}/release": of(subjects.hold, REASON),
    "GET /operator/dead-letters": read(None),
    "GET /operator/dead-letters/{command_id}": read(subjects.dead),
    "POST /operator/dead-letters/{command_id}/redrive": of(subjects.dead, REASON),
    "POST /operator/dead-letters/{command_id}/discard": of(subjects.dead, REASON),
    "POST /operator/dead-letters/redrive": [Good(about=subjects.dead, shared=True, body=MANY)],
    "POST /operator/webhooks": of(None, WEBHOOK),
    "GET /operator/webhooks": read(None),
    "GET /operator/webhooks/{webhook_id}": read(subjects.webhook),
    "DELETE /operator/webhooks/{webhook_id}": of(subjects.webhook),
    "POST /operator/webhooks/{webhook_id}/rotate": of(subjects.webhook, {"keep_s": 60}),
    "POST /operator/webhooks/{webhook_id}/enable": of(subjects.webhook, REASON),
    "POST /operator/webhooks/{webhook_id}/disable": of(subjects.webhook, REASON),
    "POST /operator/webhooks/{webhook_id}/test": of(subjects.webhook),
    "GET /operator/webhooks/{webhook_id}/deliveries": read(subjects.webhook),
    "POST /operator/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver": [
        Good(about=subjects.told, shared=True)
    ],
    "POST /operator/webhooks/{webhook_id}/redeliver": of(
        subjects.webhook, {"since": "2026-12-01T00:00:00Z", "until": "2026-12-02T00:00:00Z"}
    ),
    "GET /auditor/events": read(None),
    "GET /auditor/commands/{command_id}": read(subjects.queued),
    "GET /admin/tenant": read(None),
    "POST /sagas/definitions": of(None, DEFINITION),
    "GET /sagas/definitions": read(None),
    "GET /sagas/definitions/{name}": read(None, name="known"),
    "POST /sagas/dry-run": [Good(body={"plan": subjects.PLAN}), Good(body=NAMED)],
    "POST /sagas": [Good(body=one) for one in (RUN, NAMED)],
    "GET /sagas": read(None),
    "GET /sagas/{saga_id}": read(subjects.saga),
    "POST /sagas/{saga_id}/commit": [Good(about=subjects.adhoc, shared=True)],
    "POST /sagas/{saga_id}/cancel": [Good(about=subjects.saga, shared=True, body=REASON)],
    "POST /operator/sagas/{saga_id}/steps/{step}": [
        Good(about=subjects.half_undone, shared=True, path={"step": "a"}, body=one)
        for one in (
            {"verb": "retry", **REASON},
            {"verb": "resolve", "outcome": "compensated", **REASON},
        )
    ],
}

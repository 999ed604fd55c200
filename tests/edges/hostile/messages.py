"""For each method of MCP, in each era, a message that is good; a method that is not here fails."""

from collections.abc import Mapping
from typing import Any, Final

from app.asserted import INVOCATION_META
from app.edges.mcp.legacy.tasks import VERSION as LEGACY
from tests.edges.hostile import world as subjects
from tests.edges.hostile.rounds import Good
from tests.edges.hostile.world import PLAN, Subject
from tests.edges.mcp.wire import TASKS
from tests.edges.mcp.wire import VERSION as MODERN

META: Final = "dev.mcpbroker/"
OURS: Final = {
    f"{META}idempotency_key": "{key}",
    f"{META}ordering_key": "k{key12}",
    f"{META}deadline_ms": 60_000,
    f"{META}priority": "low",
    f"{META}wait_s": 0,
    f"{META}labels": ["l"],
    f"{META}not_before": "2026-01-31T09:00:00Z",
    INVOCATION_META: {"invocationReason": "r", "userIntent": "i", "model": "m", "turnId": "t"},
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "progressToken": "p",
}
"""What a call may say of itself; its fields are those of `CallMeta`."""
NOT_WAITED: Final = {f"{META}wait_s": 0}
ERA: Final = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {
        "extensions": {TASKS: {}},
        "elicitation": {"form": {}, "url": {}},
    },
    "io.modelcontextprotocol/clientInfo": {"name": "wire", "version": "1"},
}


def message(method: str, params: Any = None, **more: Any) -> dict[str, Any]:
    """A request; a notification where its id is taken away."""
    made = {"jsonrpc": "2.0", "id": "{key}", "method": method, "params": params or {}, **more}
    return {name: one for name, one in made.items() if one is not ...}


def call(name: str, arguments: Any, meta: Any = None, **more: Any) -> dict[str, Any]:
    """A tools/call."""
    said = NOT_WAITED if meta is None else meta
    return message("tools/call", {"name": name, "arguments": arguments, "_meta": said, **more})


def of(body: Any, about: Subject | None = None, *, shared: bool = True) -> list[Good]:
    return [Good(about=about, shared=shared, body=body)]


TOOLS: Final[Mapping[str, list[Good]]] = {
    "probe_echo": of(call("probe_echo", {"text": "x"}, OURS)),
    "service_configure": of(
        call("service_configure", {"name": "n", "owner": "o", "settings": {"a": [{"b": "c"}]}})
    ),
    "git_clone": of(
        call("git_clone", {"repo": "r", "dest": "d", "ref": "main", "depth": 1}, NOT_WAITED)
    ),
    "policy_asked": of(
        call(
            "policy_asked",
            {"what": "x", "secret": "s"},
            requestState="x",
            inputResponses={"approve": {"action": "accept", "content": {"approve": True}}},
        )
    ),
    "command_status": of(
        call("command_status", {"command_id": "{id}", "wait_s": 0}), subjects.done
    ),
    "command_cancel": of(
        call("command_cancel", {"command_id": "{id}", "reason": "because"}),
        subjects.queued,
        shared=False,
    ),
    "command_list": of(
        call(
            "command_list",
            {"state": ["queued"], "tool": "probe", "label": ["l"], "before": "{id}", "limit": 5},
        ),
        subjects.queued,
    ),
    "saga_run": [
        Good(
            body=call("saga_run", {"plan": PLAN}, {**NOT_WAITED, f"{META}idempotency_key": "{key}"})
        ),
        Good(
            body=call(
                "saga_run", {"name": "known", "version": 1, "input": {"x": "y"}, "dry_run": True}
            )
        ),
    ],
    "saga_status": of(call("saga_status", {"saga_id": "{id}", "wait_s": 0}), subjects.completed),
    "saga_cancel": of(call("saga_cancel", {"saga_id": "{id}", "reason": "because"}), subjects.saga),
}
LISTEN: Final = {
    "toolsListChanged": True,
    "promptsListChanged": True,
    "resourcesListChanged": True,
    "resourceSubscriptions": ["command://{id}"],
    "taskIds": ["{id}"],
}
SUBSCRIBED: Final = {
    "name": "command.ended",
    "arguments": {"tool": "probe_echo"},
    "cursor": "1.1.00000000000000000000000000000001.1",
    "maxAgeMs": 1000,
    "maxEvents": 5,
}
DELIVERY: Final = {
    "mode": "webhook",
    "url": "https://127.0.0.1:9/{key}",
    "secret": "whsec_short",
}
"""Of a secret that is none: with one it would be waited for the relay to ask the receiver."""
ANSWERS: Final = {"approve": {"action": "accept", "content": {"approve": True}}}
BOTH: Final[Mapping[str, list[Good]]] = {
    "tools/list": of(message("tools/list", {"cursor": "x"})),
    "resources/list": of(message("resources/list", {"cursor": "x"})),
    "resources/templates/list": of(message("resources/templates/list", {"cursor": "x"})),
    "resources/read": of(message("resources/read", {"uri": "command://{id}"}), subjects.queued),
    "tasks/get": of(message("tasks/get", {"taskId": "{id}"}), subjects.queued),
    "tasks/cancel": of(message("tasks/cancel", {"taskId": "{id}"}), subjects.queued, shared=False),
    "ping": of(message("ping")),
    "server/discover": of(message("server/discover")),
    "nothing/such": of(message("nothing/such", {"x": "y"})),
}
CANCELLED: Final = {"requestId": "x", "reason": "because"}
METHODS: Final[Mapping[str, Mapping[str, list[Good]]]] = {
    MODERN: {
        **BOTH,
        "tasks/update": of(
            message("tasks/update", {"taskId": "{id}", "inputResponses": ANSWERS}),
            subjects.pending,
        ),
        "events/list": of(message("events/list", {"cursor": "x"})),
        "events/poll": of(message("events/poll", SUBSCRIBED)),
        "events/stream": of(message("events/stream", SUBSCRIBED)),
        "events/subscribe": of(
            message("events/subscribe", {**SUBSCRIBED, "ttlMs": 60_000, "delivery": DELIVERY})
        ),
        "events/unsubscribe": of(
            message(
                "events/unsubscribe",
                {"name": "command.ended", "arguments": {}, "delivery": DELIVERY},
            )
        ),
        "subscriptions/listen": of(
            message("subscriptions/listen", {"notifications": LISTEN}), subjects.queued
        ),
    },
    LEGACY: {
        **BOTH,
        "initialize": of(
            message(
                "initialize",
                {
                    "protocolVersion": LEGACY,
                    "capabilities": {
                        "roots": {"listChanged": True},
                        "elicitation": {"form": {}, "url": {}},
                        "experimental": {},
                    },
                    "clientInfo": {"name": "wire", "version": "1"},
                },
            )
        ),
        "tasks/list": of(message("tasks/list", {"cursor": "{id}"}), subjects.queued),
        "tasks/result": of(message("tasks/result", {"taskId": "{id}"}), subjects.done),
        "tools/call as a task": of(
            call("probe_echo", {"text": "x"}, NOT_WAITED, task={"ttl": 1000})
        ),
        "notifications/cancelled": of(message("notifications/cancelled", CANCELLED, id=...)),
        "notifications/progress": of(
            message("notifications/progress", {"progressToken": "x", "progress": 1}, id=...)
        ),
        "notifications/initialized": of(message("notifications/initialized", id=...)),
        "notifications/nothing": of(message("notifications/nothing", {"x": "y"}, id=...)),
    },
}
"""By era. Those of one tool are `TOOLS`."""
NOT_SERVED: Final = frozenset({"ping", "server/discover", "nothing/such"})

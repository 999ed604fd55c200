"""A `tools/call` of every kind, as it goes onto the wire, and who has to serve it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import orjson

from app.edges.mcp.fast_call import MODERN
from app.edges.mcp.legacy.tasks import VERSION as LEGACY
from tests.edges.mcp.wire import TASKS

KEY = "dev.mcpbroker/idempotency_key"
PREFIX = "io.modelcontextprotocol"
FAULT = "test/fault"
END: dict[str, tuple[str, str | None, str | None]] = {
    "succeeded": ("succeeded", '{"text": "é ✓", "n": null, "deep": [{"n": null}]}', None),
    "failed": ("failed", None, '{"code": "x", "message": "it broke"}'),
    "broken": ("failed", None, '{"code": "x", "mcp": {"code": -32050, "message": "told"}}'),
}


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A request as it goes onto the wire; None takes a header away."""

    body: Any
    here: bool | None
    """Whether it is served without the SDK's transport; None where a request never comes so far."""
    headers: Mapping[str, str | None] = field(default_factory=dict)
    user: str = "ada"
    tenant: str = "demo"
    scope: str = "tools"
    method: str = "POST"
    more: tuple[tuple[str, str], ...] = ()


def call(era: str, name: Any = "probe_echo", arguments: Any = None, **more: Any) -> dict[str, Any]:
    """A tools/call; `meta`, `params` and `body` add to it, `without` takes from its params."""
    meta: dict[str, Any] = {}
    if era == MODERN:
        meta = {
            f"{PREFIX}/protocolVersion": era,
            f"{PREFIX}/clientCapabilities": more.get("capabilities", {}),
            f"{PREFIX}/clientInfo": {"name": "wire", "version": "1"},
        }
    params = {
        "name": name,
        "arguments": {"text": "hi"} if arguments is None else arguments,
        "_meta": meta | more.get("meta", {}),
        **more.get("params", {}),
    }
    for one in more.get("without", ()):
        del params[one]
    whole = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
    return whole | more.get("body", {})


def served(era: str) -> dict[str, Sent]:
    """Calls that are plainly good to read: some are accepted, some refused by their handler."""
    key = str(uuid4())
    bodies: dict[str, Any] = {
        "a call": call(era),
        "an id that is a text": call(era, body={"id": "seven ✓"}),
        "an id of nought": call(era, body={"id": 0}),
        "a field more": call(era, body={"surprise": 1}),
        "no arguments": call(era, without=["arguments"]),
        "arguments of null": call(era, params={"arguments": None}),
        "bad arguments": call(era, arguments={"text": 5}),
        "an argument that cannot be stored": call(era, arguments={"text": "a\0b"}),
        "texts of all kinds": call(era, arguments={"text": 'é ✓ 🙂 \u2028 " \\ \n </script>'}),
        "large numbers": orjson.dumps(call(era)).replace(b'"hi"', b"9" * 30),
        "not a number": orjson.dumps(call(era)).replace(b'"hi"', b"NaN"),
        "the same field twice": orjson.dumps(call(era)).replace(b'"id":7', b'"id":1,"id":7'),
        "all of our meta": call(
            era,
            meta={
                "dev.mcpbroker/ordering_key": "k",
                "dev.mcpbroker/deadline_ms": 60000,
                "dev.mcpbroker/priority": "high",
                "dev.mcpbroker/wait_s": 0,
                KEY: str(uuid4()),
                "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            },
        ),
        "a key": call(era, meta={KEY: key}),
        "the key again": call(era, meta={KEY: key}),
        "the key for another call": call(era, arguments={"text": "other"}, meta={KEY: key}),
        "a key in the params": call(era, params={"idempotencyKey": key}),
        "a key that is none": call(era, meta={KEY: ""}),
        "a name of ours that is none": call(era, meta={"dev.mcpbroker/nope": 1}),
        "a wait that is none": call(era, meta={"dev.mcpbroker/wait_s": -1}),
        "a patient tool, told not to wait": call(
            era, "policy_patient", {}, meta={"dev.mcpbroker/wait_s": 0}
        ),
        "a call that joins another": call(era, "git_delete", {"dest": "one"}),
        "another that is joined": call(era, "git_delete", {"dest": "one"}),
        "a tool that waits for an operator": call(era, "policy_operated", {}),
        "a tool that asks, to who shows nothing": call(era, "policy_asked", {"what": "x"}),
        "a tool served as a task only": call(era, "policy_task_only", {}),
        "a state that is none of ours": call(
            era, "policy_asked", {"what": "x"}, params={"requestState": "forged"}
        ),
        "odd meta": call(era, meta={"traceparent": 5, "other/name": [1]}),
        "a call that meets a fault": call(era, meta={FAULT: True}),
    }
    made = {name: Sent(body=body, here=True) for name, body in bodies.items()}
    refused = call(era)
    return made | {
        "a key in the header": Sent(body=call(era), headers={"Idempotency-Key": "h"}, here=True),
        "two keys": Sent(
            body=call(era, meta={KEY: "a"}), headers={"Idempotency-Key": "b"}, here=True
        ),
        "a session": Sent(body=call(era), headers={"Mcp-Session-Id": "s"}, here=True),
        "spaces around a header": Sent(
            body=call(era), headers={"Content-Type": " application/json "}, here=True
        ),
        "a tool that is not granted": Sent(body=refused, user="mallory", here=True),
    }


def of_one_era(era: str) -> dict[str, Sent]:
    """What only one era has."""
    if era == LEGACY:
        task = {"task": {"ttl": 60000}}
        bodies = {
            "a task": call(era, params=task),
            "a task of a tool that is none": call(era, "policy_no_task", {}, params=task),
            "a task that is none": call(era, params={"task": 5}),
        }
        return {name: Sent(body=body, here=True) for name, body in bodies.items()}
    tasks = {"extensions": {TASKS: {}}}
    asks: dict[str, Any] = {"elicitation": {}}
    bodies = {
        "a task": call(era, capabilities=tasks),
        "a task of a tool that is none": call(era, "policy_no_task", {}, capabilities=tasks),
        "a question": call(era, "policy_asked", {"what": "x"}, capabilities=asks),
        "a question about arguments": call(
            era, "policy_ticketed", {"what": "x"}, capabilities=asks
        ),
        "capabilities that are none": call(era, capabilities={"extensions": 5}),
    }
    made = {name: Sent(body=body, here=True) for name, body in bodies.items()}
    headed = call(era, "policy_headed", {"region": "eu"})
    other = headed | {}
    return made | {
        "an argument in a header": Sent(body=headed, headers={"Mcp-Param-Region": "eu"}, here=True),
        "an argument not in its header": Sent(body=other, here=False),
        "another name in the header": Sent(
            body=call(era), headers={"Mcp-Name": "git_clone"}, here=False
        ),
        "no name in a header": Sent(body=call(era), headers={"Mcp-Name": None}, here=None),
        "another method in the header": Sent(
            body=call(era), headers={"Mcp-Method": "tools/list"}, here=False
        ),
        "no version in the body": Sent(body=call(LEGACY), here=False),
        "another version": Sent(
            body=call(era), headers={"MCP-Protocol-Version": "2030-01-01"}, here=False
        ),
    }


REFUSED = {
    *("a notification", "no id", "an id that is a truth", "an id that is a fraction"),
    *("another JSON-RPC", "a batch", "no params", "params that are none", "no name"),
    *("a name that is none", "arguments that are none", "meta that is none"),
    *("nothing", "half", "two", "latin-1", "deep", "no Accept", "one kind accepted"),
    *("another host", "a host that begins alike", "another origin"),
}
"""What is no message, or not from where one may come: neither way sees it."""


def handed_on(era: str) -> dict[str, Sent]:
    """What is the SDK's to judge or to stream."""
    good = call(era)
    raw = orjson.dumps(good)
    bodies: dict[str, Any] = {
        "progress": call(era, meta={"progressToken": 1}),
        "a built-in tool": call(era, "command_list", {}),
        "a saga": call(era, "saga_run", {"steps": []}),
        "an unknown tool": call(era, "nope", {}),
        "a tool that is tied to its caller": call(
            era, "policy_tied", {}, meta={"dev.mcpbroker/wait_s": 0}
        ),
        "a longer wait": call(era, "policy_patient", {}, meta={"dev.mcpbroker/wait_s": 0.2}),
        "another method": call(era, body={"method": "ping"}),
        "a notification": {one: good[one] for one in good if one != "id"},
        "no id": call(era, body={"id": None}),
        "an id that is a truth": call(era, body={"id": True}),
        "an id that is a fraction": call(era, body={"id": 1.5}),
        "another JSON-RPC": call(era, body={"jsonrpc": "1.0"}),
        "a batch": [good],
        "a result": {"jsonrpc": "2.0", "id": 7, "result": {}},
        "no params": {one: good[one] for one in good if one != "params"},
        "params that are none": call(era, body={"params": [1]}),
        "no name": call(era, without=["name"]),
        "a name that is none": call(era, 5),
        "arguments that are none": call(era, params={"arguments": [1]}),
        "meta that is none": call(era, params={"_meta": 5}),
        "nothing": b"",
        "half": raw[:40],
        "two": raw * 2,
        "latin-1": raw.replace(b"hi", b"\xe9"),
        "deep": raw.replace(b'"hi"', b"[" * 5000 + b"]" * 5000),
    }
    made = {
        name: Sent(body=body, here=None if name in REFUSED else False)
        for name, body in bodies.items()
    }
    changed: dict[str, dict[str, str | None]] = {
        "no Accept": {"Accept": None},
        "one kind accepted": {"Accept": "application/json"},
        "anything accepted": {"Accept": "*/*"},
        "a charset": {"Content-Type": "application/json; charset=utf-8"},
        "plain text": {"Content-Type": "text/plain"},
        "another host": {"Host": "evil.example"},
        "a host that begins alike": {"Host": "127.0.0.1.evil.example:1"},
        "an origin of ours": {"Origin": "http://localhost:1"},
        "another origin": {"Origin": "http://evil.example"},
    }
    made |= {
        name: Sent(body=good, headers=one, here=None if name in REFUSED else False)
        for name, one in changed.items()
    }
    mark = b"\xef\xbb\xbf" + raw
    return made | {
        "a byte order mark": Sent(body=mark, here=None),
        "a header twice": Sent(body=good, more=(("Accept", "text/plain"),), here=False),
        "an unknown tenant": Sent(body=good, tenant="nobody", here=False),
        "another scope": Sent(body=good, scope="operator", here=None),
        "no token": Sent(body=good, headers={"Authorization": None}, here=None),
        "too much": Sent(body=good, headers={"Content-Length": "2000000"}, here=None),
    }


def ended(era: str) -> dict[str, Sent]:
    """Calls that are repeated after their end."""
    told = {"dev.mcpbroker/wait_s": 0}
    bodies = {state: call(era, meta={KEY: state, **told}) for state in END}
    return {name: Sent(body=body, here=True) for name, body in bodies.items()}

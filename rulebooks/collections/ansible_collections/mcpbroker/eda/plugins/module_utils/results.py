"""The results API's client: what an adapter's plays say to the broker, and for which command.

It runs in ansible's own process. The address and the token come from the environment
(MCP_BROKER_URL; MCP_BROKER_TOKEN_FILE or MCP_BROKER_TOKEN), so that no play, log or event holds
them.
"""

from __future__ import annotations

import json
import os
import random
import time
import urllib.error
import uuid
from dataclasses import dataclass

from ansible.errors import AnsibleActionFail
from ansible.module_utils.urls import open_url

TIMEOUT_S = 15
PAUSE_MAX_S = 10.0
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
STALE = frozenset({404, 409, 410})
"""Answers that say: this attempt is not, or no longer, yours to work on."""

# How long a word is tried while the broker is away. A lost claim costs nothing, as the broker
# sends the command again; a lost result costs the work that was done for it.
CLAIM_S = 60.0
PROGRESS_S = 5.0
LAST_WORD_S = 900.0


@dataclass(frozen=True)
class Command:
    """The fields of an envelope that are the broker's own, none of them a caller's text."""

    correlation_id: str
    attempt: int
    tenant_id: str | None
    tool: str | None
    method: str | None
    ordering_key: str | None

    @property
    def path(self) -> str:
        """Its place in the results API."""
        return f"/results/{self.correlation_id}"


def envelope_of(args: dict, task_vars: dict) -> object:
    """The event's body, as plain data that nothing takes for a template.

    Read from the variables as they are: a value that came with the event is never templated
    here, whoever sent it and whatever is in it.
    """
    found = args.get("command")
    if found is None:
        found = task_vars.get("mcp_command")  # an automation controller's job
    if found is None:
        event = task_vars.get("ansible_eda") or {}
        found = (event.get("event") or {}).get("body")
    # Through JSON and back: ansible marks strings of extra variables as trusted templates, and
    # a mark would go along into this action's result.
    return json.loads(json.dumps(found, default=str))


def command_of(envelope: object) -> Command | None:
    """The command of an envelope; None where it is none."""
    if not isinstance(envelope, dict):
        return None
    try:
        correlation_id = str(uuid.UUID(envelope.get("correlation_id")))
        attempt = int(envelope.get("attempt") or 1)
    except (AttributeError, TypeError, ValueError):
        return None
    text = {name: _text(envelope.get(name)) for name in ("tenant_id", "tool", "method")}
    ordering_key = _text(envelope.get("ordering_key"))
    return Command(correlation_id, attempt, **text, ordering_key=ordering_key)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def post(path: str, body: dict, *, patience_s: float) -> tuple[int, dict]:
    """POST, again while the broker is away: every route of the results API may be repeated.

    Raises:
        AnsibleActionFail: no answer within the patience.
    """
    url = os.environ.get("MCP_BROKER_URL", "http://127.0.0.1:8080").rstrip("/") + path
    data = json.dumps(body).encode()
    until = time.monotonic() + patience_s
    pause_s = 0.25
    while True:
        status, answer, problem = _try(url, data)
        # A token file is renewed while we run; a token of the environment is not.
        renewable = status == 401 and "MCP_BROKER_TOKEN_FILE" in os.environ
        if status is not None and status not in TRANSIENT and not renewable:
            return status, answer
        if time.monotonic() + pause_s > until:
            if status is not None:
                return status, answer
            raise AnsibleActionFail(f"the broker does not answer: {problem}")
        time.sleep(pause_s * (0.5 + random.random() / 2))
        pause_s = min(PAUSE_MAX_S, pause_s * 2)


def _try(url: str, data: bytes) -> tuple[int | None, dict, object]:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {_token()}"}
    try:
        answer = open_url(
            url,
            data=data,
            headers=headers,
            method="POST",
            timeout=TIMEOUT_S,
            use_proxy=False,
            follow_redirects="no",  # the token is for this address only
            ca_path=os.environ.get("MCP_BROKER_CAFILE"),
        )
        return answer.status, _json(answer.read()), None
    except urllib.error.HTTPError as error:
        return error.code, _json(error.read()), error
    except OSError as error:
        return None, {}, error


def _json(data: bytes) -> dict:
    try:
        found = json.loads(data or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _token() -> str:
    path = os.environ.get("MCP_BROKER_TOKEN_FILE")
    if path:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    token = os.environ.get("MCP_BROKER_TOKEN")
    if not token:
        raise AnsibleActionFail("set MCP_BROKER_TOKEN_FILE or MCP_BROKER_TOKEN for the adapters")
    return token


def say_progress(command: Command, *, stage: str, percent: object, message: object) -> bool:
    """Say how far it is, which renews the lease; whether to go on.

    A broker that is away stops no work: the claim's fence decides about the result later.

    Raises:
        AnsibleActionFail: the broker refuses these words, or this adapter.
    """
    body: dict = {"stage": str(stage)[:100], "attempt": command.attempt}
    if percent is not None:
        body["percent"] = float(percent)
    if message:
        body["message"] = str(message)[:2000]
    try:
        status, answer = post(f"{command.path}/progress", body, patience_s=PROGRESS_S)
    except AnsibleActionFail:
        return True
    if status in STALE or answer.get("cancel_requested"):
        return False
    if status in TRANSIENT or status < 300:
        return True
    raise AnsibleActionFail(f"progress answered {status}: {answer.get('detail')}")
